"""The one clock: wall time, read after the device has finished its work."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Read seconds since an arbitrary start; on CUDA, wait for the device first.

    Args:
        synchronize: Waits for the device; none where work is done when the call returns.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize

    def seconds(self) -> float:
        """Return the time at which all work asked for so far is done."""
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter_ns() * 1e-9


def device_clock(*devices: str) -> Clock:
    """Return the clock for a device such as `cpu` or `cuda:0`, or for several CUDA devices."""
    if devices[0].startswith("cuda"):
        import torch

        def synchronize() -> None:
            for device in devices:
                torch.cuda.synchronize(device)

        return Clock(synchronize)
    return Clock()
