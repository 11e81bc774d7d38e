"""What NVIDIA's management library counts of a GPU: its clock, and how long what slowed it.

The counters are cumulative, in nanoseconds, so their difference tells what happened *during* a
stretch of work; the driver advances them in steps of about 0.1 s. Only counters whose number is the
same in all drivers are read. Those of `NVML_FI_DEV_CLOCKS_EVENT_REASON_*_SLOWDOWN` are not: 251 to
253 were renumbered to 269 to 271 (release notes of driver 580), so a library of another age than
the driver would read something else. What has no such counter is read as the reasons of the moment.

Source: NVML API reference, field values and clocks event reasons. The Python package is
`nvidia-ml-py`, whose module is called `pynvml`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

# Bits of the clocks event reasons that make a GPU slower than it could be.
REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}


class _Counter(NamedTuple):
    """A counter of slowed time.

    Attributes:
        field: Its name in NVML.
        reason: What tables call it.
        bits: Clocks event reasons that it counts; they need not be read as those of the moment.
    """

    field: str
    reason: str
    bits: int


_COUNTERS = (
    _Counter("NVML_FI_DEV_PERF_POLICY_POWER", "power cap", 0x04),
    _Counter("NVML_FI_DEV_PERF_POLICY_THERMAL", "too hot", 0x60),
    _Counter("NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT", "board limit", 0),
)


class Reading(NamedTuple):
    """What a card says at one moment.

    Attributes:
        at: `time.monotonic_ns()` of the reading.
        sm_clock_mhz: Clock of its multiprocessors; None where it does not say.
        slowed: Nanoseconds for which it was slowed since the driver was loaded, by reason.
        now: What slows it at this moment, of the reasons that have no counter here.
    """

    at: int
    sm_clock_mhz: int | None
    slowed: Mapping[str, int]
    now: tuple[str, ...]

    def shares_since(self, before: Reading) -> dict[str, float] | None:
        """Return the shares of the time since another reading by what slowed it, without zeros.

        Returns:
            None where no counter was read.
        """
        elapsed = self.at - before.at
        known = self.slowed.keys() & before.slowed.keys()
        if not known or elapsed <= 0:
            return None
        passed = {each: self.slowed[each] - before.slowed[each] for each in sorted(known)}
        # A counter that moves in steps may count a little more than the time that is looked at.
        return {each: min(1.0, count / elapsed) for each, count in passed.items() if count > 0}


class Card:
    """A GPU as NVML knows it.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: Of the card.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def read(self) -> Reading:
        """Ask the driver; what it does not say is left out."""
        slowed, counted = self._counters()
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._handle)
        if reasons is None:  # a library or a driver before release 535 knows the older name
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle)
        mask = (reasons or 0) & ~counted
        return Reading(
            time.monotonic_ns(),
            self._ask("nvmlDeviceGetClockInfo", self._handle, self._nvml.NVML_CLOCK_SM),
            slowed,
            tuple(reason for bit, reason in REASONS.items() if mask & bit),
        )

    def _counters(self) -> tuple[dict[str, int], int]:
        """Return nanoseconds by reason, and the clocks event reasons that they count."""
        fields = [getattr(self._nvml, each.field) for each in _COUNTERS]
        values = self._ask("nvmlDeviceGetFieldValues", self._handle, fields)
        if values is None:
            return {}, 0
        found, counted = {}, 0
        for counter, value in zip(_COUNTERS, values, strict=True):
            if value.nvmlReturn == self._nvml.NVML_SUCCESS:
                found[counter.reason] = int(value.value.ullVal)
                counted |= counter.bits
        return found, counted

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of NVML; None where library, driver or card do not know it."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except (AttributeError, self._nvml.NVMLError):
            return None


def find_card(name: str) -> Card | None:
    """Return the card with a name such as `GPU-8a5e…`; None without `nvidia-ml-py` or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Card(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
    except pynvml.NVMLError:
        return None
