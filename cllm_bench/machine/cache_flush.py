"""Empties the caches between memory and processor, so that no method finds another's weights."""

from __future__ import annotations

from pathlib import Path

LEAST_BYTES = 256 * 2**20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class CacheFlush:
    """Overwrites a buffer of twice the last-level cache when it is called.

    The buffer is read and written, as plain stores of one value may bypass a processor's caches.
    It is held for the whole run: on CUDA it is part of every peak of memory.

    Args:
        device: That the models run on.
        caches: What Linux knows about the first core's caches.
    """

    def __init__(self, device: str, caches: Path = _CACHES) -> None:
        import torch

        size = _l2_bytes(device) if device.startswith("cuda") else last_level_bytes(caches)
        self.bytes = max(LEAST_BYTES, 2 * size)
        self._buffer = torch.zeros(self.bytes // 4, dtype=torch.int32, device=device)

    def __call__(self) -> None:
        """Write every byte; on CUDA it is asked for, and done before what is asked for next."""
        self._buffer.add_(1)


def last_level_bytes(caches: Path = _CACHES) -> int:
    """Return the size of a core's largest cache, in bytes; 0 where the system does not say."""
    sizes = [0]
    for file in caches.glob("index*/size"):
        try:
            text = file.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes)


def _l2_bytes(device: str) -> int:
    import torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)
