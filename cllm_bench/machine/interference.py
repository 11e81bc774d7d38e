"""Watches the machine while a run is timed: what other programs take of it, and whether it slows.

Linux only so far; elsewhere nothing is known, and nothing is claimed.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cllm_bench.machine.nvml import REASONS, Card, Reading, find_card

GPU_EVERY = 10.0  # seconds between calls of nvidia-smi: each takes some hundredths of one
SLOWED = 0.01  # the least share of a lap that is told as a slowed one
_STAT = Path("/proc/stat")
_SERVERS: set[int] = set()  # processes of this one that `count_as_own` was told of
_THROTTLED = "cpu*/thermal_throttle/core_throttle_count"


class Lap(NamedTuple):
    """What was seen since the lap before.

    Attributes:
        foreign_load: Cores that other programs kept busy, on average; None if unknown.
        slowed: Why the processor or GPU ran slower than it could, if it did.
        sm_clock_mhz: Clock of the GPU's multiprocessors at its end; None if unknown.
        throttled: Shares of it during which the GPU was slowed, by reason, without zeros; None if
            unknown.
    """

    foreign_load: float | None
    slowed: tuple[str, ...]
    sm_clock_mhz: int | None = None
    throttled: Mapping[str, float] | None = None


def count_as_own(pid: int) -> None:
    """Let what a running child uses, such as a server that a method asks, count as this process's.

    The system counts a child's time as its parent's only once it has ended.
    """
    _SERVERS.add(pid)


class MachineWatch:
    """Tells lap by lap what disturbed the machine.

    A GPU is asked by NVML, whose counters tell what happened during the lap. Without NVML
    nvidia-smi says what slows it at the moment, at most every `GPU_EVERY` seconds.

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
        self._card: Card | None = None
        if device.startswith("cuda"):
            self._card = find_card(driver_name(device))
        self._last = self._read()

    def lap(self) -> Lap:
        """Return what was seen since the last call, or since this was made."""
        before, self._last = self._last, self._read()
        now = self._last
        found = self._gpu(before.gpu, now.gpu)
        if now.throttled > before.throttled:
            found = found._replace(slowed=("processor too hot", *found.slowed))
        if now.busy is None or before.busy is None or now.wall <= before.wall:
            return found
        others = (now.busy - before.busy) - (now.own - before.own)
        return found._replace(foreign_load=max(0.0, others) / (now.wall - before.wall))

    def _read(self) -> _Counters:
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        own += sum(map(_seconds_used, tuple(_SERVERS)))
        throttled = sum(self._throttle_counts())
        gpu = None if self._card is None else self._card.read()
        return _Counters(time.monotonic(), self._busy(), own, throttled, gpu)

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

    def _gpu(self, before: Reading | None, now: Reading | None) -> Lap:
        """Return what is known of the GPU alone."""
        if before is not None and now is not None:
            shares = now.shares_since(before)
            told = [each for each, share in (shares or {}).items() if share >= SLOWED]
            return Lap(None, (*told, *now.now), now.sm_clock_mhz, shares)
        if self._device.startswith("cuda") and time.monotonic() - self._gpu_asked >= GPU_EVERY:
            self._gpu_slowed = gpu_slowed(self._device)
            self._gpu_asked = time.monotonic()
        return Lap(None, self._gpu_slowed)


def _seconds_used(pid: int) -> float:
    """Return processor seconds of a running child; none of one that ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        _SERVERS.discard(pid)  # its time is its parent's by now, and its number may go to another
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # a name may hold anything
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class _Counters(NamedTuple):
    wall: float
    busy: float | None
    own: float
    throttled: int
    gpu: Reading | None


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
        return tuple(reason for bit, reason in REASONS.items() if mask & bit)
    return ()
