"""The filter of system calls."""

from __future__ import annotations

import os
import struct

import pytest

from cllm_bench.sandbox import seccomp as sandbox_syscalls

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter(monkeypatch, machine):
    """An interpreter of the filter's few instructions says what it does with a call."""
    monkeypatch.setattr(sandbox_syscalls.platform, "machine", lambda: machine)
    program = list(struct.iter_unpack("=HBBI", sandbox_syscalls.filter_program(77)))
    assert len(program) < 4096
    column = 1 if machine == "x86_64" else 2
    table = f"{sandbox_syscalls._TABLE},{sandbox_syscalls._CONDITIONAL}"
    numbers = {row.split()[0]: row.split()[column] for row in table.split(",")}
    architecture = sandbox_syscalls._AUDIT_ARCHITECTURE[machine]

    def does(number, *arguments, architecture=architecture):
        data = struct.pack(
            "=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments))
        )
        place = 0
        while True:
            code, yes, no, value = program[place]
            if code == 0x20:
                (loaded,) = struct.unpack_from("=I", data, value)
                place += 1
            elif code == 0x06:
                return {0x7FFF0000: "allow"}.get(value, value & 0xFFFF)
            else:
                true = {0x15: loaded == value, 0x35: loaded >= value, 0x45: loaded & value}[code]
                place += 1 + (yes if true else no)

    def call(name, *arguments):
        return does(int(numbers[name]), *arguments)

    assert call("read") == call("futex") == call("openat") == "allow"
    assert call("clone", 0x3D0F00) == "allow"  # a thread
    assert call("clone", 0x1200011) == 1  # a process
    assert call("clone3") == 38
    assert call("kill", 77, 9) == "allow"
    assert call("kill", 78, 9) == call("kill", 2**32 - 1, 9) == call("kill", 0, 9) == 1
    assert call("fcntl", 5, 1) == "allow"
    assert call("fcntl", 5, 8) == call("prctl", 1, 0) == call("prlimit64", 78) == 1
    assert does(41 if machine == "x86_64" else 198) == 1  # socket
    assert does(59 if machine == "x86_64" else 221) == 1  # execve
    assert does(int(numbers["read"]), architecture=3) == 1
    assert does(0x40000000) == 38  # the numbers of x32


def test_filter_of_an_unknown_machine(monkeypatch):
    monkeypatch.setattr(sandbox_syscalls.platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="vax"):
        sandbox_syscalls.filter_program(1)
