"""Measures how strongly programs are confined on this machine by attacking the sandbox."""

from __future__ import annotations

import functools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cllm_bench.errors import UserError
from cllm_bench.sandbox.limits import Limits
from cllm_bench.sandbox.process import SandboxProcess

# Each attack returns whether it got through; `facts` says where the harness can be hit. Those that
# a missing feature of the system makes fail have failed, too.
_ATTEMPT = """
import os, socket

def attempt(action):
    try:
        action()
    except (OSError, MemoryError, AttributeError):
        return False
    return True
"""
ATTACKS: Mapping[str, str] = {
    "files": """
def attack(facts):
    folder, file = facts["folder"], facts["folder"] + "/file"
    return any(map(attempt, (
        lambda: os.listdir(folder),
        lambda: open(file).read(),
        lambda: open(file, "a"),
        lambda: open(folder + "/new", "w"),
        lambda: os.truncate(file, 0),
        lambda: os.chmod(file, 0o600),
        lambda: os.utime(file, (1, 1)),
        lambda: os.remove(file),
    )))
""",
    "environment": """
def attack(facts):
    files = [f"/proc/{process}/environ" for process in facts["processes"]]
    return any(name in os.environ for name in facts["variables"]) or any(
        attempt(lambda: open(file).read()) for file in files
    )
""",
    "network": """
def attack(facts):
    def local():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(facts["local"])
    return any(map(attempt, (
        lambda: socket.create_connection(("127.0.0.1", facts["port"]), 1).close(),
        local,
    )))
""",
    "other processes": """
def attack(facts):
    others = set(facts["processes"]) - {os.getpid()}
    return any(attempt(lambda: os.kill(process, 0)) for process in others)
""",
    "lasting processes": """
def attack(facts):
    def fork():
        if not os.fork():
            os._exit(0)
    # The first process of a namespace takes all others with it.
    return os.getpid() != 1 and attempt(fork)
""",
    "rights": """
def attack(facts):
    return attempt(lambda: os.chroot("."))
""",
    "memory": """
def attack(facts):
    return attempt(lambda: bytearray(2 * facts["memory"]))
""",
    "file size": """
def attack(facts):
    def fill():
        with open("large", "wb") as file:
            for _ in range(17):
                file.write(bytes(facts["file"] // 16))
    return attempt(fill)
""",
    "processor time": """
def attack(facts):
    import resource
    return resource.getrlimit(resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY
""",
}
_DANGERS: Mapping[str, str] = {
    "files": "programs can reach your files",
    "environment": "programs can read environment variables",
    "network": "programs can use the network",
    "other processes": "programs can signal your processes",
    "lasting processes": "programs can start processes that outlive them",
    "rights": "programs run as root",
    "memory": "programs can use all memory",
    "file size": "programs can fill the disk",
    "processor time": "programs can compute without end",
}
# Generous with time, because an attack that is late counts as one that may get through.
_LIMITS = Limits(seconds=10, wall_seconds=60, file_bytes=1 << 20)


@dataclass(frozen=True, slots=True)
class Strength:
    """What programs are kept from.

    Attributes:
        holds: What attacks were tried in vain on.
        missing: What they got through to, each with the danger.
        walls_missing: Parts of the confinement that this system does not let us have, each with
            the reason; with luck the others do without.
    """

    holds: tuple[str, ...]
    missing: Mapping[str, str]
    walls_missing: Mapping[str, str]

    @property
    def full(self) -> bool:
        """Whether every attack failed."""
        return not self.missing

    def as_dict(self) -> dict[str, Any]:
        """Return it, ready for JSON."""
        return {
            "holds": list(self.holds),
            "missing": dict(self.missing),
            "walls_missing": dict(self.walls_missing),
        }

    def __str__(self) -> str:
        """Return a line for the user."""
        found = "full isolation" if self.full else "isolation is not full"
        parts = [f"sandbox: {found}; protected: {', '.join(self.holds) or 'nothing'}"]
        parts += self.missing.values()
        if self.walls_missing:
            parts.append("not to be had: " + "; ".join(_reasons(self.walls_missing)))
        return "; ".join(parts)


_less_is_allowed = False


def allow_unsafe_code() -> None:
    """Let this process run programs behind less than full isolation, as its user has said."""
    global _less_is_allowed
    _less_is_allowed = True


def require(found: Strength, *, allowed: bool | None = None) -> None:
    """Refuse to run programs behind less than full isolation, unless that is allowed.

    Args:
        found: What holds.
        allowed: Whether it is allowed; None asks whether `allow_unsafe_code` was called.

    Raises:
        UserError: It is not.
    """
    if found.full or (_less_is_allowed if allowed is None else allowed):
        return
    dangers = ", ".join(found.missing.values())
    reasons = "; ".join(_reasons(found.walls_missing)) or "every wall stands, and yet they do"
    raise UserError(
        f"programs that a model wrote are not fully confined here: {dangers} ({reasons}); run "
        "this where user namespaces or Landlock and seccomp can be had (Linux 5.13 and later), "
        "or accept the danger with --allow-unsafe-code"
    )


@functools.cache
def strength() -> Strength:
    """Find out what holds on this machine; once a process.

    Raises:
        RuntimeError: The sandbox does not work here.
        UserError: This system has none.
    """
    process = SandboxProcess()
    try:
        walls = process.missing()
        with targets() as facts:
            facts["processes"].append(process.process_id)
            holds = tuple(name for name in ATTACKS if _fails(process, name, facts))
    finally:
        process.close()
    missing = {name: danger for name, danger in _DANGERS.items() if name not in holds}
    return Strength(holds, missing, walls)


def attack_code(name: str) -> str:
    """Return the program of an attack."""
    return _ATTEMPT + ATTACKS[name]


@contextmanager
def targets() -> Iterator[dict[str, Any]]:
    """Put up what attacks are to be tried on."""
    with (
        tempfile.TemporaryDirectory(prefix="cllm-bench-target-") as folder,
        closing(socket.create_server(("127.0.0.1", 0))) as listening,
        closing(socket.socket(socket.AF_UNIX)) as local,
    ):
        # Open to everybody, so that it is the sandbox that protects it.
        Path(folder).chmod(0o777)
        file = Path(folder) / "file"
        file.write_text("x", encoding="ascii")
        file.chmod(0o666)
        # Linux has sockets that no file stands for, and no wall around files keeps in.
        linux = sys.platform == "linux"
        address = f"\0cllm-bench-{os.getpid()}" if linux else str(Path(folder) / "socket")
        local.bind(address)
        local.listen()
        yield {
            "folder": folder,
            "variables": list(os.environ),
            "port": listening.getsockname()[1],
            "local": address,
            "processes": [os.getpid()],
            "memory": _LIMITS.memory_bytes,
            "file": _LIMITS.file_bytes,
        }


def _fails(process: SandboxProcess, name: str, facts: Mapping[str, Any]) -> bool:
    """Tell whether an attack is known to fail; one that does not come to its end is not."""
    tests = f"def check(candidate):\n    assert not candidate({dict(facts)!r})\n"
    verdict = process.grade(_LIMITS, attack_code(name), "attack", tests)
    return verdict["reason"] == "passed"


def _reasons(walls: Mapping[str, str]) -> list[str]:
    return [f"{wall}: {reason}" for wall, reason in walls.items()]
