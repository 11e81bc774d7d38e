"""A watched machine: the load of other programs, and processors that slow down."""

import os
import subprocess
import sys

import pytest

from cllm_bench.machine import interference as machine_watch
from cllm_bench.machine.interference import MachineWatch, gpu_slowed


def test_foreign_load_is_other_programs_alone(tmp_path):
    stat = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")

    def tell(busy):
        stat.write_text(f"cpu {int(busy * ticks)} 0 0 500 0 0 0 0 0 0\ncpu0 1\n", encoding="ascii")

    tell(100)
    watch = MachineWatch("cpu", stat, tmp_path)
    watch._last = watch._last._replace(wall=watch._last.wall - 10)  # ten seconds ago
    tell(115)
    lap = watch.lap()
    assert lap.foreign_load == pytest.approx(1.5, abs=0.1)
    assert lap.slowed == ()
    assert MachineWatch("cpu", tmp_path / "none", tmp_path).lap().foreign_load is None


def test_own_work_is_not_foreign():
    watch = MachineWatch("cpu")
    if watch._last.busy is None:
        pytest.skip("this system does not tell what its processors do")
    script = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", script], check=True)  # a grader, for example
    before = watch._last.own
    watch.lap()
    assert watch._last.own - before >= 0.5


def test_a_running_servers_work_is_not_foreign():
    watch = MachineWatch("cpu")
    if watch._last.busy is None:
        pytest.skip("this system does not tell what its processors do")
    script = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as server:
        machine_watch.count_as_own(server.pid)
        before = watch._last.own
        server.stdout.readline()
        watch.lap()
        assert watch._last.own - before >= 0.4  # it is told in ticks
        server.communicate(b"\n")
    ended = watch._read().own
    assert server.pid not in machine_watch._SERVERS
    assert ended - before >= 0.4  # now as the time of a child that has ended


def test_a_hot_processor_is_told(tmp_path):
    counter = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("3\n", encoding="ascii")
    watch = MachineWatch("cpu", cores=tmp_path)
    assert watch.lap().slowed == ()
    counter.write_text("4\n", encoding="ascii")
    assert watch.lap().slowed == ("processor too hot",)
    assert watch.lap().slowed == ()


def test_the_driver_says_why_a_gpu_is_slow(monkeypatch, cards):
    asked = []

    def run(command, **_):
        asked.append(command)
        if "clocks_event_reasons.active" in command[3]:
            raise subprocess.CalledProcessError(2, command)  # an older driver
        return subprocess.CompletedProcess(command, 0, stdout="0x0000000000000044\n")

    monkeypatch.setattr(machine_watch.subprocess, "run", run)
    assert gpu_slowed("cuda:1") == ("power cap", "too hot (hardware)")
    assert asked[0][:3] == ("nvidia-smi", "-i", "GPU-00bb")
    watch = MachineWatch("cuda")
    assert watch.lap().slowed == ("power cap", "too hot (hardware)")
    assert asked[-1][2] == "GPU-11aa"
    count = len(asked)
    watch.lap()
    assert len(asked) == count  # the driver is not asked at every lap
