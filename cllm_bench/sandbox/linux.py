"""System calls that confine a process and that Python has no names for, by ctypes. Linux only.

On another system, or an older kernel, what cannot be done raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from typing import Any

from cllm_bench.sandbox.seccomp import filter_program

NEW_MOUNTS, NEW_NAMES, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000

MOUNT_READ_ONLY, MOUNT_NO_SETUID, MOUNT_NO_DEVICES, MOUNT_REMOUNT = 0x1, 0x2, 0x4, 0x20
MOUNT_BIND, MOUNT_RECURSIVE, MOUNT_PRIVATE = 0x1000, 0x4000, 0x40000
_DETACH = 2
_KEPT_MOUNT_FLAGS = 0xE  # no set-uid, no devices, no execution: a remount may not drop them

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# The same numbers on every architecture.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_PATH = 1, 1
READ_FILE, READ_FOLDER, WRITE_FILE = 0x4, 0x8, 0x2
EVERYTHING = 0xFFFF


def unshare(flags: int) -> None:
    """Move this process, or with `NEW_PROCESSES` its future children, into new namespaces."""
    _call("unshare", ctypes.c_int(flags))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount, or change a mount."""
    _call("mount", _text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(data))


def bind_read_only(source: str, target: str) -> None:
    """Show a file or folder at another place, where it cannot be changed."""
    mount(source, target, None, MOUNT_BIND)
    kept = os.statvfs(target).f_flag & _KEPT_MOUNT_FLAGS
    mount(None, target, None, MOUNT_REMOUNT | MOUNT_BIND | MOUNT_READ_ONLY | MOUNT_NO_SETUID | kept)


def change_root(folder: str) -> None:
    """Make a mounted folder the root, and let go of the old one."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"the number of pivot_root on {platform.machine()} is not known here")
    os.chdir(folder)
    # Both in one place: the old root comes to lie over the new one, and is taken off.
    _call("syscall", ctypes.c_long(number), b".", b".")
    _call("umount2", b".", ctypes.c_int(_DETACH))
    os.chdir("/")


def die_with_parent() -> None:
    """Be killed when the parent ends. To be repeated after a change of user."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def gain_nothing() -> None:
    """Give up for good what set-uid programs and the like could add."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up all capabilities."""
    _call("capset", struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))


def allow_paths(rights: Mapping[str, int]) -> None:
    """Deny this process all files but those beneath some paths, and with Landlock all it can deny.

    That is, as the kernel's version goes, TCP, other processes' abstract sockets, and signals to
    others.
    """
    nothing = ctypes.c_void_p(None)
    version = _call(
        "syscall",
        ctypes.c_long(_LANDLOCK_CREATE),
        nothing,
        ctypes.c_size_t(0),
        ctypes.c_uint(_LANDLOCK_VERSION),
    )
    # Thirteen rights at first; then moving between folders, truncation, and control of devices.
    known = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    attribute = struct.pack("=Q", known)
    if version >= 4:
        attribute += struct.pack("=Q", 0x3)
    if version >= 6:
        attribute += struct.pack("=Q", 0x3)
    rules = _call(
        "syscall",
        ctypes.c_long(_LANDLOCK_CREATE),
        attribute,
        ctypes.c_size_t(len(attribute)),
        ctypes.c_uint(0),
    )
    try:
        for path, allowed in rights.items():
            _allow_path(rules, path, allowed & known)
        _call("syscall", ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(rules), ctypes.c_uint(0))
    finally:
        os.close(rules)


def _allow_path(rules: int, path: str, allowed: int) -> None:
    descriptor = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    try:
        _call(
            "syscall",
            ctypes.c_long(_LANDLOCK_ADD),
            ctypes.c_int(rules),
            ctypes.c_int(_LANDLOCK_PATH),
            struct.pack("=Qi", allowed, descriptor),
            ctypes.c_uint(0),
        )
    finally:
        os.close(descriptor)


def filter_system_calls() -> None:
    """Refuse what `sandbox_syscalls` does not allow, from here on and for good."""
    program = filter_program(os.getpid())
    memory = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, header)


def _prctl(option: int, first: int, second: bytes | None = None) -> None:
    _call("prctl", ctypes.c_int(option), ctypes.c_ulong(first), second or ctypes.c_ulong(0), 0, 0)


def _call(name: str, *arguments: Any) -> int:
    if sys.platform != "linux":  # where numbers of system calls mean something else
        raise OSError(errno.ENOSYS, "needs Linux")
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"the C library has no {name}")
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result: int = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)
