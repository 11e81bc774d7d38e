"""Hostile programs are confined: files, network, processes, memory and time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sandbox_programs import DONE, DOUBLE, QUICK, SECRET, crippled, running, wait_until

from cllm_bench.sandbox import process as sandbox_process
from cllm_bench.sandbox.isolation import targets
from cllm_bench.sandbox.sandbox import Limits, Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


# The drill. Each program tries something and would return "done" had it worked. Where it takes work
# to be refused, a slow machine may find the time to be up first.
DRILL = {
    "endless loop": ("def f():\n    while True: pass", {"timeout"}),
    "fork bomb": (
        "import os\ndef f():\n    while True: os.fork()",
        {"error", "timeout"},
    ),
    "processes": (
        "import subprocess\ndef f():\n    subprocess.run(['/bin/sh', '-c', ':'])\n"
        "    return 'done'",
        {"error"},
    ),
    "threads without end": (
        "import threading, time\ndef f():\n"
        "    for _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    return 'done'",
        {"error", "timeout"},
    ),
    "50 GB": ("def f():\n    x = bytearray(50 << 30)\n    return 'done'", {"error"}),
    "50 GB bit by bit": (
        "def f():\n    x = []\n    while True: x.append(bytes(1 << 20))",
        {"error", "timeout"},
    ),
    "10 GB file": (
        "def f():\n    with open('large', 'wb') as file:\n"
        "        for _ in range(10 << 10): file.write(bytes(1 << 20))\n    return 'done'",
        {"error", "timeout"},
    ),
    "many files": (
        "def f():\n    for i in range(100_000): open(f'{i}', 'w').close()\n    return 'done'",
        {"error", "timeout"},
    ),
    "home": ("import os\ndef f():\n    os.listdir(HOME)\n    return 'done'", {"error"}),
    "home by name": (
        "import os\ndef f():\n    open(FOLDER + '/secret').read()\n    return 'done'",
        {"error"},
    ),
    "system files": ("def f():\n    open('/etc/passwd').read()\n    return 'done'", {"error"}),
    "environment": (
        "import os\ndef f():\n    os.environ['CLLM_SECRET']\n    return 'done'",
        {"error"},
    ),
    "environment of others": (
        "import os\ndef f():\n    open(f'/proc/{os.getppid()}/environ').read()\n    return 'done'",
        {"error"},
    ),
    "loopback": (
        "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', PORT), 5)\n"
        "    return 'done'",
        {"error"},
    ),
    "internet": (
        "import socket\ndef f():\n    socket.create_connection(('1.1.1.1', 53), 5)\n"
        "    return 'done'",
        {"error"},
    ),
    "datagrams": (
        "import socket\ndef f():\n"
        "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', PORT))\n"
        "    return 'done'",
        {"error"},
    ),
    "kill the parent": (
        "import os, signal\ndef f():\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 'done'",
        {"error"},
    ),
    "kill all": (
        "import os, signal\ndef f():\n    os.kill(-1, signal.SIGKILL)\n    return 'done'",
        {"error", "crash"},
    ),
    "kill the harness": (
        "import os, signal\ndef f():\n    os.kill(HARNESS, signal.SIGKILL)\n    return 'done'",
        {"error"},
    ),
    "delete the working directory": (
        "import os, shutil\ndef f():\n    shutil.rmtree(os.getcwd())\n    return 'done'",
        {"error"},
    ),
    "delete everything": (
        "import os, shutil\ndef f():\n    shutil.rmtree('/')\n    return 'done'",
        {"error"},
    ),
    "write to the results": (
        "def f():\n    open(FOLDER + '/samples.jsonl', 'a').write('{}')\n    return 'done'",
        {"error"},
    ),
    "import with side effects": (
        "import sys\nopen('module.py', 'w').write('open(FOLDER + \"/new\", \"w\")')\n"
        "sys.path.insert(0, '.')\nimport builtins\nbuiltins.FOLDER = FOLDER\nimport module\n"
        "def f(): return 'done'",
        {"error"},
    ),
    "binary garbage": (bytes(range(256)).decode("latin-1") * 40, {"error", "timeout"}),
    "lone surrogates": ("\ud800 = '\udfff'", {"error"}),
    "brackets": ("(" * 100_000, {"error", "crash", "timeout"}),
    "recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()",
        {"error", "crash", "timeout"},
    ),
    "1 MB of output a second": (
        "import sys, time\ndef f():\n    while True:\n"
        "        sys.stdout.write('x' * (1 << 20)); sys.stderr.write('y' * (1 << 20))\n"
        "        time.sleep(1)",
        {"timeout"},
    ),
    "output without end": ("def f():\n    while True: print('passed' * 1000)", {"timeout"}),
    "endless answer": ("def f(): return 'x' * (200 << 20)", {"error", "crash", "timeout"}),
    "nested answer": (
        "def f():\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
        {"error", "timeout"},
    ),
    "own limits": (
        "import resource\ndef f():\n"
        "    resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))\n    return 'done'",
        {"error"},
    ),
    "root": ("import os\ndef f():\n    os.chroot('.')\n    return 'done'", {"error"}),
    "modes": (
        "import os\ndef f():\n    os.chmod(FOLDER + '/secret', 0)\n    return 'done'",
        {"error"},
    ),
    **{
        f"exit {code} {when}": (f"import os\n{line}os._exit({code})", {"crash"})
        for code in (1, 2, 3, 126, 137, 255)
        for when, line in (("at once", ""), ("when called", "def f(): "))
    },
}


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """What a program might reach, with a look afterwards at whether it did."""
    monkeypatch.setenv("CLLM_SECRET", SECRET)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "samples.jsonl").write_text("{}\n")
    tmp_path.chmod(0o777)
    for file in tmp_path.iterdir():
        file.chmod(0o666)

    def look():
        return {
            file.name: (file.read_text(), file.stat().st_mode, file.stat().st_mtime_ns)
            for file in tmp_path.iterdir()
        }

    before = look()
    yield tmp_path
    assert look() == before


@pytest.mark.parametrize("name", DRILL)
def test_drill(box, surroundings, name):
    program, reasons = DRILL[name]
    if name == "1 MB of output a second":
        box = Sandbox(Limits(seconds=1, wall_seconds=4))
    with targets() as facts:
        names = {
            "HOME": str(Path.home()),
            "FOLDER": str(surroundings),
            "PORT": facts["port"],
            "HARNESS": os.getpid(),
        }
        head = "".join(f"{key} = {value!r}\n" for key, value in names.items())
        server = box._process.process_id
        started = time.monotonic()
        outcome = box.grade(head + program, "f", DONE)
        assert time.monotonic() - started < QUICK.wall_seconds + 10
    assert outcome.reason in reasons, outcome
    assert "done" not in outcome.detail
    assert server in (None, box._process.process_id)  # the same server goes on
    wait_until(lambda: not running(box))
    assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed
    if name == "1 MB of output a second":
        box.close()


def test_working_directory_is_empty_and_new_for_each_program(box):
    program = """
import os
def f():
    found = os.listdir(".")
    os.mkdir("folder")
    open("folder/file", "w").write("x" * 1000)
    return found, open("folder/file").read() == "x" * 1000
"""
    tests = "def check(candidate):\n    assert candidate() == ([], True)\n"
    for _ in range(2):
        assert box.grade(program, "f", tests).detail == ""


@pytest.mark.parametrize("whose", ["scratch", "not scratch"], ids=["program", "judge"])
def test_wall_that_falls_later_is_no_verdict(box, monkeypatch, whose):
    code = (
        "from cllm_bench.sandbox.confine import Confinement as C\n"
        "whole = C.confine\n"
        "def confine(self, limits, place, *, scratch):\n"
        "    whole(self, limits, place, scratch=scratch)\n"
        f"    if place and {whose}: self.missing['planted'] = 'fell'\n"
        "C.confine = confine"
    )
    with monkeypatch.context() as patch:
        found = crippled(patch, code.replace("if place", "if False"))
        assert found.full
    script = sandbox_process._SCRIPT.removesuffix("main()") + f"exec({code!r}); main()"
    monkeypatch.setattr(sandbox_process, "_SCRIPT", script)
    weak = Sandbox(QUICK)
    with pytest.raises(RuntimeError, match="died twice"):
        weak.grade("def f(x): return 2 * x", "f", DOUBLE)
    weak.close()
