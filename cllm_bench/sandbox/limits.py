"""Resource limits of a program in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use; its tests may use as much.

    Attributes:
        seconds: Of processor time, rounded up to whole seconds.
        wall_seconds: Of time, whether it works or sleeps.
        memory_bytes: Address space.
        file_bytes: Size of a file, and of all files of its working directory together.
        open_files: Open at the same time.
        threads: Running at the same time; and processes, where those can be started at all.
    """

    seconds: float = 3.0
    wall_seconds: float = 12.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    open_files: int = 64
    threads: int = 32
