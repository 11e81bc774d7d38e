"""The one clock: wall time, read after the device has finished its work; and the device's own.

On CUDA a pair of events on the current stream brackets every timed reply. The device stamps them
itself, so they are a check on the host's clock: the two must agree, or one of them is wrong, or
work ran on another stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Event(Protocol):
    """A point in a device's queue of work, as `torch.cuda.Event` has it."""

    def record(self) -> Any:
        """Put the point behind all work asked for so far."""

    def elapsed_time(self, end: Any, /) -> float:
        """Return milliseconds from this point to another; both must have been passed."""


class Events(NamedTuple):
    """The points around a reply; recorded again for every reply, for to make them takes time."""

    begin: Event
    end: Event


class Clock:
    """Read seconds since an arbitrary start; on CUDA, wait for the device first.

    Args:
        synchronize: Waits for the device; none where work is done when the call returns.
        events: Of the device, to check the clock by; none where it has none.
    """

    def __init__(
        self, synchronize: Callable[[], None] | None = None, events: Events | None = None
    ) -> None:
        self._synchronize = synchronize
        self._events = events

    def seconds(self) -> float:
        """Return the time at which all work asked for so far is done."""
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter_ns() * 1e-9

    def begin(self) -> float:
        """Return the same at the beginning of a reply, which the device notes too."""
        start = self.seconds()
        if self._events is not None:
            self._events.begin.record()
        return start

    def end(self) -> float:
        """Return the same at the end of a reply, which the device notes too."""
        if self._events is not None:
            self._events.end.record()
        return self.seconds()

    def device_seconds(self) -> float | None:
        """Return what the device measured from the last `begin` to the last `end`; None on a CPU.

        To be asked after `end`, when nothing is timed.
        """
        if self._events is None:
            return None
        return self._events.begin.elapsed_time(self._events.end) * 1e-3


def device_clock(*devices: str) -> Clock:
    """Return the clock for a device such as `cpu` or `cuda:0`, or for several CUDA devices."""
    if devices[0].startswith("cuda"):
        import torch

        def synchronize() -> None:
            for device in devices:
                torch.cuda.synchronize(device)

        make: Callable[..., Event] = torch.cuda.Event
        events = Events(make(enable_timing=True), make(enable_timing=True))
        return Clock(synchronize, events)
    return Clock()
