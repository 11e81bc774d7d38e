"""The clock waits for the device."""

import pytest
import torch

from cllm_bench.contracts import Sampling, Step
from cllm_bench.decoding.loop import generate
from cllm_bench.engine import clock as clock_module
from cllm_bench.engine.clock import Clock

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
