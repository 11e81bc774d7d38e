"""The clock waits for the device."""

import pytest
import torch

from cllm_bench.contracts import Sampling, Step
from cllm_bench.decoding.loop import generate
from cllm_bench.engine import clock as clock_module
from cllm_bench.engine.clock import Clock, Events

PROMPT = torch.tensor([1])
STOP = 0


def decode(decoder, limit, clock):
    return generate(
        decoder,
        PROMPT,
        sampling=Sampling(),
        max_new_tokens=limit,
        stop_ids={STOP},
        clock=clock,
    )


def test_work_that_the_device_has_not_done_counts(monkeypatch):
    """Without waiting for the device, launching is all that is seen."""

    class Device:
        """Launching takes 1 ms, the work 10 ms; the host goes on meanwhile."""

        host = done = 0.0

        def launch(self):
            self.host += 0.001
            self.done = max(self.done, self.host) + 0.010

        def wait(self):
            self.host = max(self.host, self.done)

    def seconds_of(synchronised):
        device = Device()
        monkeypatch.setattr(clock_module.time, "perf_counter_ns", lambda: round(device.host * 1e9))

        def decoder(prompt_ids, sampling):
            while True:
                device.launch()
                yield Step((5,))

        return decode(decoder, 21, Clock(device.wait if synchronised else None))

    naive, ours = seconds_of(False), seconds_of(True)
    assert naive.decode_seconds == pytest.approx(20 * 0.001)
    assert ours.decode_seconds == pytest.approx(20 * 0.010, rel=0.01)
    assert ours.prefill_seconds == pytest.approx(0.011)


class Card:
    """A device with a clock of its own, which runs at another rate than the host's."""

    def __init__(self, rate):
        self.rate, self.host, self.log = rate, 0.0, []

    def event(self, name):
        card = self

        class Event:
            at = 0.0

            def record(self):
                self.at = card.host * card.rate
                card.log.append(name)

            def elapsed_time(self, end):
                card.log.append("read")
                return 1000 * (end.at - self.at)

        return Event()

    def clock(self):
        card = self

        class HostClock(Clock):
            def seconds(self):
                return card.host

        return HostClock(events=Events(self.event("begin"), self.event("end")))

    def decoder(self, prompt_ids, sampling):
        while True:
            self.host += 0.5
            self.log.append("pass")
            yield Step((5,))


@pytest.mark.parametrize("library", [False, True])
def test_the_device_times_every_reply_too(library):
    card = Card(rate=1.03)
    decoder = card.decoder

    class Library:
        def answer(self, prompt_ids, sampling, *, settle, **_):
            for step in card.decoder(prompt_ids, sampling):
                settle(step)

    clock = card.clock()
    for _ in range(2):
        found = decode(Library() if library else decoder, 3, clock)
        assert (found.prefill_seconds, found.decode_seconds) == (0.5, 1.0)
        assert found.device_seconds == pytest.approx(1.03 * 1.5)
    # Nothing but two stamps is asked of the device before the reply has ended.
    assert card.log == ["begin", "pass", "pass", "pass", "end", "read"] * 2


def test_a_processor_has_no_clock_of_its_own():
    assert decode(Card(1.0).decoder, 3, Clock()).device_seconds is None
