"""NVML, spoken to by a module that knows the real names: counters, clocks and what lacks."""

from types import SimpleNamespace

import pytest

from cllm_bench.machine import interference, nvml
from cllm_bench.machine.interference import MachineWatch

POWER, THERMAL, BOARD = 74, 75, 77
SECOND = 10**9


class Nvml:
    """`pynvml`, of a machine with one card.

    Attributes:
        counters: Nanoseconds by field; a field that is missing is not supported.
        mask: Clocks event reasons of the moment.
        clock: Of the multiprocessors, in MHz.
    """

    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1
    NVML_FI_DEV_PERF_POLICY_POWER = POWER
    NVML_FI_DEV_PERF_POLICY_THERMAL = THERMAL
    NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT = BOARD

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.counters = {POWER: 5 * SECOND, THERMAL: 0, BOARD: 0}
        self.mask, self.clock = 0, 1980

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != "GPU-11aa":
            raise self.NVMLError(uuid)
        return "handle"

    def nvmlDeviceGetFieldValues(self, handle, fields):  # noqa: N802
        assert handle == "handle"
        return [
            SimpleNamespace(
                nvmlReturn=0 if field in self.counters else 3,
                value=SimpleNamespace(ullVal=self.counters.get(field, 0)),
            )
            for field in fields
        ]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):  # noqa: N802
        return self.mask

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        assert (handle, kind) == ("handle", self.NVML_CLOCK_SM)
        return self.clock


@pytest.fixture
def library(monkeypatch, cards):
    """The library in place of the real one, a clock that is set, and no nvidia-smi."""
    found = Nvml()
    found.now = 0
    monkeypatch.setitem(__import__("sys").modules, "pynvml", found)
    monkeypatch.setattr(nvml.time, "monotonic_ns", lambda: found.now)
    monkeypatch.setattr(interference, "gpu_slowed", lambda _: pytest.fail("nvidia-smi was asked"))
    return found


def test_a_lap_tells_what_happened_during_it(library):
    watch = MachineWatch("cuda")
    library.now += 2 * SECOND
    library.counters[POWER] += SECOND // 2
    library.clock = 1755
    lap = watch.lap()
    assert lap.throttled == {"power cap": 0.25}
    assert lap.slowed == ("power cap",)
    assert lap.sm_clock_mhz == 1755
    library.now += 2 * SECOND
    assert watch.lap()[1:] == ((), 1755, {})  # five seconds before the run do not count


def test_counters_count_and_moments_fill_the_gaps(library):
    """What idles at the end of a lap is not slowed; what has no counter is seen at that moment."""
    watch = MachineWatch("cuda")
    library.now += SECOND
    library.mask = 0x04 | 0x40 | 0x80  # power cap, too hot, power brake
    assert watch.lap().slowed == ("power brake",)
    del library.counters[THERMAL]
    library.now += SECOND
    assert watch.lap().slowed == ("too hot (hardware)", "power brake")


def test_a_counter_in_steps_never_exceeds_the_time(library):
    watch = MachineWatch("cuda")
    library.now += SECOND // 20
    library.counters[POWER] += SECOND // 10
    assert watch.lap().throttled == {"power cap": 1.0}


def test_a_trace_is_stored_but_not_told(library):
    watch = MachineWatch("cuda")
    library.now += 1000 * SECOND
    library.counters[POWER] += SECOND
    assert watch.lap()[1:] == ((), 1980, {"power cap": 0.001})


def test_an_old_library_knows_older_names(library, monkeypatch):
    monkeypatch.delattr(Nvml, "nvmlDeviceGetCurrentClocksEventReasons")
    monkeypatch.delattr(Nvml, "nvmlDeviceGetFieldValues")
    library.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x04
    watch = MachineWatch("cuda")
    library.now += SECOND
    assert watch.lap()[1:] == (("power cap",), 1980, None)


@pytest.mark.parametrize("lacks", ["module", "card", "driver"])
def test_without_nvml_nvidia_smi_is_asked(library, monkeypatch, lacks):
    if lacks == "module":
        monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    if lacks == "driver":
        monkeypatch.setattr(library, "nvmlInit", lambda: library.nvmlDeviceGetHandleByUUID("?"))
    monkeypatch.setattr(interference, "gpu_slowed", lambda _: ("power cap",))
    device = "cuda:1" if lacks == "card" else "cuda"
    assert MachineWatch(device).lap()[1:] == (("power cap",), None, None)


def test_the_real_library_has_these_names():
    real = pytest.importorskip("pynvml")
    for name in vars(Nvml):
        assert name.startswith("_") or hasattr(real, name), name
    for name, value in vars(Nvml).items():
        if name.startswith("NVML_"):
            assert getattr(real, name) == value
    fields = dict(real.c_nvmlFieldValue_t._fields_)
    assert "nvmlReturn" in fields
    assert "ullVal" in dict(fields["value"]._fields_)
    assert issubclass(real.NVMLError, Exception)
