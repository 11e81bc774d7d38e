"""Memory that is free on a device."""

from __future__ import annotations

from pathlib import Path


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a device, `cpu` or `cuda:N`; None where nothing tells."""
    if not device.startswith("cuda"):
        return _free_host_memory()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    # Blocks that torch holds and nobody uses are free as well.
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + held)


def _free_host_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not on Linux
        return None
    found = dict(line.split(":", 1) for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None
