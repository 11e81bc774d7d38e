"""The seccomp filter of the sandbox: the system calls that a program may make, in classic BPF.

What Python needs in order to compute, to import and to use its working directory is allowed, and
everything else refused: starting processes, sockets, signals to others, and changing the owner,
mode, times or attributes of files, which Landlock does not govern. Threads may be started.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import NamedTuple

# Name, number on x86_64, number on aarch64; `-` where an architecture has no such call.
_TABLE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, open 2 -,
openat 257 56, openat2 437 437, close 3 57, close_range 436 436, stat 4 -, lstat 6 -, fstat 5 80,
newfstatat 262 79, statx 332 291, lseek 8 62, access 21 -, faccessat 269 48, faccessat2 439 439,
getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, readlink 89 -,
readlinkat 267 78, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35,
rename 82 -, renameat 264 38, renameat2 316 276, ftruncate 77 46, fsync 74 82, fdatasync 75 83,
fadvise64 221 223, flock 73 32, ioctl 16 29, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -,
pipe2 293 59, sendfile 40 71, copy_file_range 326 285, poll 7 -, ppoll 271 73, select 23 -,
pselect6 270 72, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
eventfd2 290 19, umask 95 166, statfs 137 43, fstatfs 138 44,
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, brk 12 214, madvise 28 233, msync 26 227,
mincore 27 232,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101,
gettimeofday 96 169, time 201 -, times 100 153, getitimer 36 102, setitimer 38 103, alarm 37 -,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, pause 34 -,
restart_syscall 219 128,
exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, getpid 39 172, getppid 110 173,
gettid 186 178, getpgrp 111 -, getpgid 121 155, getsid 124 156, getuid 102 174, geteuid 107 175,
getgid 104 176, getegid 108 177, getgroups 115 158, getresuid 118 148, getresgid 120 150,
getrlimit 97 163, getrusage 98 165, getpriority 140 141, sysinfo 99 179, uname 63 160,
sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168,
futex 202 98, futex_waitv 449 449, set_robust_list 273 99, get_robust_list 274 100,
set_tid_address 218 96, rseq 334 293, membarrier 324 283, arch_prctl 158 -, getrandom 318 278
"""
# Allowed, or answered, under conditions only.
_CONDITIONAL = """
clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, prlimit64 302 261, prctl 157 167,
fcntl 72 25
"""
_PR_SET_NAME = 15
# Reading and setting flags, locks and duplicates; not F_SETOWN, which sends signals to others.
_FCNTL_COMMANDS = (*range(8), 1030)
_CLONE_THREAD = 0x10000
# From here on all architectures share the numbers, and C libraries try a call before its elder.
_FIRST_COMMON_NUMBER = 424

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000  # the low half is the errno


class _Instruction(NamedTuple):
    code: int
    value: int
    if_true: int = 0  # instructions to jump over
    if_false: int = 0


def filter_program(process_id: int) -> bytes:
    """Return the filter as the kernel takes it: an array of `struct sock_filter`.

    Args:
        process_id: Of the process itself, the only one to which it may send signals.

    Raises:
        OSError: The numbers of this machine's system calls are not known here.
    """
    machine = platform.machine()
    if machine not in _AUDIT_ARCHITECTURE:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    conditional = _numbers(_CONDITIONAL, machine)
    refuse = _Instruction(_RETURN, _FAIL | errno.EPERM)
    program = [
        _Instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _Instruction(_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        refuse,  # a 32-bit call, whose numbers mean something else
        _Instruction(_LOAD, _NUMBER_OFFSET),
    ]
    for number in _numbers(_TABLE, machine).values():
        program += [_Instruction(_EQUAL, number, 0, 1), _Instruction(_RETURN, _ALLOW)]
    for name, place, values in (
        ("kill", 0, (process_id,)),
        ("tgkill", 0, (process_id,)),
        ("prlimit64", 0, (0, process_id)),
        ("prctl", 0, (_PR_SET_NAME,)),
        ("fcntl", 1, _FCNTL_COMMANDS),
    ):
        tests = [
            part
            for value in values
            for part in (_Instruction(_EQUAL, value, 0, 1), _Instruction(_RETURN, _ALLOW))
        ]
        program += _when(conditional[name], place, [*tests, refuse])
    thread = [_Instruction(_ANY_BIT, _CLONE_THREAD, 0, 1), _Instruction(_RETURN, _ALLOW), refuse]
    program += _when(conditional["clone"], 0, thread)
    # "No such call" sends the C library to the elder call, and to `clone`, whose flags a filter
    # can see; those of clone3 lie in memory.
    program += [
        _Instruction(_AT_LEAST, _FIRST_COMMON_NUMBER, 0, 1),
        _Instruction(_RETURN, _FAIL | errno.ENOSYS),
        refuse,
    ]
    return b"".join(struct.pack("=HBBI", i.code, i.if_true, i.if_false, i.value) for i in program)


def _when(number: int, argument: int, body: list[_Instruction]) -> list[_Instruction]:
    """Run a body, which always returns, over the low half of an argument of one call."""
    load = _Instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * argument)
    return [_Instruction(_EQUAL, number, 0, 1 + len(body)), load, *body]


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = 1 + list(_AUDIT_ARCHITECTURE).index(machine)
    rows = [row.split() for row in table.split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}
