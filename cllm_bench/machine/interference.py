"""Watches the machine while a run is timed: what other programs take of it, and whether it slows.

Linux only so far; elsewhere nothing is known, and nothing is claimed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GPU_EVERY = 10.0  # seconds between questions to the driver: each takes some hundredths of one
# Bits of NVML's clocks event reasons that make a GPU slower than it could be.
_GPU_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "too hot (software)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}
_STAT = Path("/proc/stat")
_THROTTLED = "cpu*/thermal_throttle/core_throttle_count"


class Lap(NamedTuple):
    """What was seen since the lap before.

    Attributes:
        foreign_load: Cores that other programs kept busy, on average; None if unknown.
        slowed: Why the processor or GPU ran slower than it could, if it did.
    """

    foreign_load: float | None
    slowed: tuple[str, ...]


class MachineWatch:
    """Tells lap by lap what disturbed the machine.

    Args:
        device: That the models run on.
        stat: The kernel's counters of processor time.
        cores: Folder of what it knows about each core.
    """

    def __init__(
        self,
        device: str,
        stat: Path = _STAT,
        cores: Path = Path("/sys/devices/system/cpu"),
    ) -> None:
        self._device = device
        self._stat = stat
        self._cores = cores
        self._gpu_asked = -GPU_EVERY
        self._gpu_slowed: tuple[str, ...] = ()
        self._last = self._read()

    def lap(self) -> Lap:
        """Return what was seen since the last call, or since this was made."""
        before, self._last = self._last, self._read()
        now = self._last
        slowed = self._gpu()
        if now.throttled > before.throttled:
            slowed = ("processor too hot", *slowed)
        if now.busy is None or before.busy is None or now.wall <= before.wall:
            return Lap(None, slowed)
        others = (now.busy - before.busy) - (now.own - before.own)
        return Lap(max(0.0, others) / (now.wall - before.wall), slowed)

    def _read(self) -> _Counters:
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return _Counters(time.monotonic(), self._busy(), own, sum(self._throttle_counts()))

    def _busy(self) -> float | None:
        """Return processor seconds that all programs and other guests have used, since the start.

        The first line is `cpu user nice system idle iowait irq softirq steal …`, in ticks.
        """
        try:
            with self._stat.open(encoding="ascii") as lines:
                ticks = [int(word) for word in lines.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        idle = sum(ticks[3:5])
        return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")

    def _throttle_counts(self) -> Iterator[int]:
        for file in self._cores.glob(_THROTTLED):
            try:
                yield int(file.read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue

    def _gpu(self) -> tuple[str, ...]:
        if not self._device.startswith("cuda"):
            return ()
        if time.monotonic() - self._gpu_asked >= GPU_EVERY:
            self._gpu_slowed = gpu_slowed(self._device)
            self._gpu_asked = time.monotonic()
        return self._gpu_slowed


class _Counters(NamedTuple):
    wall: float
    busy: float | None
    own: float
    throttled: int


def driver_name(device: str) -> str:
    """Return what nvidia-smi knows a CUDA device as, such as `GPU-8a5e…`.

    Indices are no names: CUDA counts the cards that it is allowed to see, in an order of its own.
    """
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def gpu_slowed(device: str) -> tuple[str, ...]:
    """Ask the driver why a GPU is slower than it could be; nothing where it does not say."""
    card = driver_name(device)
    for field in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        command = ("nvidia-smi", "-i", card, f"--query-gpu={field}", "--format=csv,noheader")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            mask = int(done.stdout.strip(), 16)
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        return tuple(reason for bit, reason in _GPU_REASONS.items() if mask & bit)
    return ()
