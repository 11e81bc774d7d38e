"""Confines the process itself before it runs an untrusted program.

Several walls stand one behind the other: namespaces with a root of their own, in which there is
nothing but Python's standard library; Landlock; a filter of system calls; a user without rights;
limits. Where the system has no namespaces for us, as in most containers, the others do as well,
except that names, sizes and times of files can then be found out. Every wall that cannot be put up
is remembered under its name with the reason.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cllm_bench.sandbox import linux
from cllm_bench.sandbox.limits import Limits

SCRATCH = "/work"
_DEVICES = ("/dev/null", "/dev/urandom")
_ROOT_BYTES = 1 << 20  # of the root itself, which holds only mount points
_SCRATCH_FILES = 1000
# User ids that no system gives away; each program and each judge gets its own.
_FIRST_USER = 1_000_000_000
_NOBODY = 65534


class Confinement:
    """The walls of one server process and of the processes that it starts.

    Args:
        folder: An empty folder, to mount the root on or to work in.

    Attributes:
        missing: Walls that could not be put up, each with the reason.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._library = [path for path in sys.path if os.path.isdir(path)]
        self.missing: dict[str, str] = {}

    @property
    def has_root(self) -> bool:
        """Whether there is a root of its own."""
        return not self.missing.keys() & {"namespaces", "private root"}

    def enter(self) -> None:
        """Confine the server: once, before it starts others."""
        with self._wall("namespaces"):
            _leave_namespaces()
        if not self.missing:
            with self._wall("private root"):
                self._build_root()
        os.chdir("/" if self.has_root else self._folder)

    def separate(self) -> None:
        """Let the next child of this process see none but its own processes."""
        with self._wall("process namespace"):
            linux.unshare(linux.NEW_PROCESSES)

    def confine(self, limits: Limits, place: int, *, scratch: bool) -> None:
        """Confine this process for good.

        Args:
            limits: What it may use.
            place: Makes its user id, where it has one of its own.
            scratch: Whether it gets a working directory that it may change.
        """
        os.setsid()
        if scratch and self.has_root:
            with self._wall("working directory"):
                _mount_scratch(limits.file_bytes)
        with self._wall("limits"):
            _limit(limits)
        with self._wall("user without rights"):
            self._change_user(_FIRST_USER + place)
        with self._wall("no capabilities"):
            linux.drop_capabilities()
        with self._wall("end with the parent"):
            linux.die_with_parent()
        with self._wall("no new privileges"):
            linux.gain_nothing()
        with self._wall("Landlock"):
            linux.allow_paths(self._rights())
        with self._wall("system-call filter"):
            linux.filter_system_calls()

    @contextmanager
    def _wall(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.missing[name] = str(error)

    def _build_root(self) -> None:
        """Make the library and two devices all that can be seen."""
        root = self._folder
        linux.mount(None, "/", None, linux.MOUNT_RECURSIVE | linux.MOUNT_PRIVATE)
        flags = linux.MOUNT_NO_SETUID | linux.MOUNT_NO_DEVICES
        linux.mount("tmpfs", root, "tmpfs", flags, f"mode=755,size={_ROOT_BYTES}")
        for path in self._library:
            os.makedirs(root + path, exist_ok=True)
            if not os.listdir(root + path):  # it may lie within one that is there already
                linux.bind_read_only(os.path.realpath(path), root + path)
            for packages in ("site-packages", "dist-packages"):  # installed by the user
                if os.path.isdir(hidden := f"{root}{path}/{packages}"):
                    linux.mount("tmpfs", hidden, "tmpfs", flags | linux.MOUNT_READ_ONLY)
        os.mkdir(f"{root}/dev")
        for device in _DEVICES:
            with open(root + device, "xb"):
                pass
            linux.bind_read_only(device, root + device)
        os.mkdir(root + SCRATCH)
        linux.change_root(root)
        remount = linux.MOUNT_REMOUNT | linux.MOUNT_BIND | linux.MOUNT_READ_ONLY
        linux.mount(None, "/", None, remount | flags)

    def _rights(self) -> dict[str, int]:
        rights = dict.fromkeys(self._library, linux.READ_FILE | linux.READ_FOLDER)
        rights |= dict.fromkeys(_DEVICES, linux.READ_FILE | linux.WRITE_FILE)
        if self.has_root:
            rights[SCRATCH] = linux.EVERYTHING
        return rights

    def _change_user(self, wanted: int) -> None:
        """Become a user whom nobody else is, if this one is root.

        Raises:
            OSError: That user could not read the library, or root may not change.
        """
        if os.geteuid() != 0:
            return
        os.setgroups([])
        try:
            os.setresgid(wanted, wanted, wanted)
            os.setresuid(wanted, wanted, 0)
        except OSError:  # where only the usual ids are known, as in some containers
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, 0)
        user = os.geteuid()
        try:
            with open(os.__file__, "rb"):
                pass
        except OSError:
            os.setresuid(0, 0, 0)
            raise
        os.seteuid(0)
        os.setresuid(user, user, user)


def _leave_namespaces() -> None:
    """Get file system, network, host name and shared memory of our own, as root or as anybody."""
    flags = linux.NEW_MOUNTS | linux.NEW_NETWORK | linux.NEW_NAMES | linux.NEW_IPC
    try:
        linux.unshare(flags)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        linux.unshare(flags | linux.NEW_USERS)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def _mount_scratch(size: int) -> None:
    """Give this process an empty working directory that nobody else sees."""
    linux.unshare(linux.NEW_MOUNTS)
    flags = linux.MOUNT_NO_SETUID | linux.MOUNT_NO_DEVICES
    options = f"mode=777,size={size},nr_inodes={_SCRATCH_FILES}"
    linux.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
    os.chdir(SCRATCH)


def _limit(limits: Limits) -> None:
    """Set the limits; the first that cannot be set is told when all others are."""
    failed: Exception | None = None
    for name, value in (
        ("AS", limits.memory_bytes),
        ("CPU", math.ceil(limits.seconds)),
        ("FSIZE", limits.file_bytes),
        ("NOFILE", limits.open_files),
        ("NPROC", limits.threads),
        ("CORE", 0),
        ("MEMLOCK", 0),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        most = value + (name == "CPU")  # a second later than the signal that tells of it
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        try:
            resource.setrlimit(kind, (min(value, most), most))
        except (OSError, ValueError) as error:
            failed = failed or OSError(f"{name}: {error}")
    if failed:
        raise failed


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor except the standard ones and those kept."""
    highest = 2
    for descriptor in sorted(kept):
        os.closerange(highest + 1, descriptor)
        highest = max(highest, descriptor)
    os.closerange(highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
