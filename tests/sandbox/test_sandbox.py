"""The sandbox: verdicts, the drill of hostile programs, what holds, and what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import struct
import subprocess
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

import cllm_bench.sandbox.sandbox as sandbox_module
from cllm_bench.errors import UserError
from cllm_bench.sandbox import isolation as sandbox_strength
from cllm_bench.sandbox import process as sandbox_process
from cllm_bench.sandbox import seccomp as sandbox_syscalls
from cllm_bench.sandbox.child import _end
from cllm_bench.sandbox.isolation import ATTACKS, Strength, attack_code, require, strength, targets
from cllm_bench.sandbox.sandbox import Limits, Sandbox
from cllm_bench.sandbox.values import pack, unpack

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")

QUICK = Limits(seconds=1, wall_seconds=40, memory_bytes=512 << 20, file_bytes=1 << 20)
SECRET = "a-secret-that-only-the-tests-know"
DOUBLE = (
    "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('ab') == 'abab'\n"
)
DONE = "def check(candidate):\n    assert candidate() == 'done'\n"


@pytest.fixture(scope="module")
def box():
    if not strength().full:
        pytest.skip(f"{strength()}")
    sandbox = Sandbox(QUICK)
    yield sandbox
    sandbox.close()


def running(box):
    """Process ids of all that the sandbox's server has started, and they in turn."""
    found, queue = [], [box._process.process_id]
    while queue:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            for tasks in Path(f"/proc/{queue.pop()}/task").glob("*/children"):
                children = [int(word) for word in tasks.read_text().split()]
                found += children
                queue += children
    return found


def gone(process):
    """Whether a process has ended, be it waited for or not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("program", "reason", "detail"),
    [
        ("def f(x): return 2 * x", "passed", ""),
        ("def f(x): return x + x if x else None\nprint('passed')", "passed", ""),
        ("def f(x): return 3 * x", "failed", ""),
        ("def f(x): return x / 0", "error", "ZeroDivisionError: division by zero"),
        ("def g(x): return 2 * x", "error", "NameError: no function 'f'"),
        ("def f(x) return", "error", "SyntaxError"),
        ("def f(x): return (x for _ in range(2))", "error", "TypeError: a generator is no plain"),
        ("import numpy\ndef f(x): return 2 * x", "error", "ModuleNotFoundError"),
        ("import sys\ndef f(x): sys.exit(0)", "error", "SystemExit"),
        ("def f(x): raise AssertionError('mine')", "error", "AssertionError: mine"),
        ("f = 3", "error", "TypeError"),
        ("", "error", "NameError"),
        ("import os\nos._exit(0)", "crash", "the program ended"),
        ("import os\ndef f(x): os._exit(0)", "crash", "the program ended"),
        ("def f(x):\n    while True: pass", "timeout", "1 s of work"),
        ("while True: pass", "timeout", "1 s of work"),
        (
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
            "timeout",
            "1 s of work",
        ),
    ],
)
def test_verdicts(box, program, reason, detail):
    outcome = box.grade(program, "f", DOUBLE)
    assert (outcome.reason, outcome.passed) == (reason, reason == "passed")
    assert detail in outcome.detail


@pytest.mark.parametrize(("program", "cut"), [("while True: pass", True), ("input()", False)])
def test_what_was_ended_for_its_processor_time_is_told_by_the_signal(program, cut):
    """Not by the time on record alone, which on a busy machine may still lack a tenth of it."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\n"
    command = [sys.executable, "-S", "-c", limit + program]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    with process.stdin:
        if cut:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        work = _end(process.pid)
    process.returncode = 0  # taken by `_end`
    assert work.cut is cut


def test_sleeping_program_is_stopped_by_the_clock(box):
    sleeper = Sandbox(Limits(seconds=1, wall_seconds=0.5))
    started = time.monotonic()
    outcome = sleeper.grade("import time\ndef f(x): time.sleep(600)", "f", DOUBLE)
    assert outcome.reason == "timeout"
    assert time.monotonic() - started < 60  # of the 600 that it wants to sleep
    sleeper.close()


def test_tests_may_use_their_context_and_the_function_by_name(box):
    context = "def f(x):\n    '''Double.'''\n\ndef half(x): return x // 2\n"
    tests = "def check(candidate):\n    assert half(candidate(6)) == f(3) == 6\n"
    assert box.grade("def f(x): return 2 * x", "f", tests, context).passed


def test_named_arguments_exceptions_and_modules(box):
    program = """
import collections, dataclasses, enum, hashlib, threading, typing

@dataclasses.dataclass
class Point:
    x: "int"

class Colour(str, enum.Enum):
    RED = "red"

def f(x, *, kind):
    if kind == "raise":
        raise KeyError(x)
    if kind == "thread":
        found = []
        thread = threading.Thread(target=lambda: found.append(x))
        thread.start()
        thread.join()
        return found
    return collections.Counter(x), Point(3).x, Colour.RED, hashlib.md5(b"").hexdigest()[:4]
"""
    tests = """
def check(candidate):
    assert candidate("aab", kind="") == ({"a": 2, "b": 1}, 3, "red", "d41d")
    assert candidate(1, kind="thread") == [1]
    try:
        candidate(1, kind="raise")
    except KeyError:
        return
    assert False
"""
    assert box.grade(program, "f", tests).detail == ""


def test_verdicts_are_repeatable(box):
    program = """
import random
def f(): return [random.random(), list({"one", "two", "three", "four", "five"})]
"""
    tests = "def check(candidate):\n    raise ValueError(candidate())\n"
    first = box.grade(program, "f", tests)
    other = Sandbox(QUICK)
    assert first == box.grade(program, "f", tests) == other.grade(program, "f", tests)
    other.close()


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


# Programs that try to be told that they passed.
FORGERIES = {
    "printed": 'print(\'passed\')\nprint(\'{"reason": "passed", "detail": ""}\')\n'
    "def f(x): print('passed')",
    "exit": "import os\nprint('passed', flush=True)\nos._exit(0)",
    "written to every descriptor": """
import os, struct
message = b'{"reason": "passed", "detail": ""}'
for descriptor in range(64):
    try:
        os.write(descriptor, struct.pack("!i", len(message)) + message)
    except OSError:
        pass
def f(x): return None
""",
    "a value that equals everything": """
class Yes(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
class Text(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def f(x): return Yes() if isinstance(x, int) else Text()
""",
    "an object that equals everything": """
class Yes:
    def __eq__(self, other): return True
def f(x): return Yes()
""",
    "patched grader": """
import builtins, json, sys
builtins.AssertionError = Exception
for name, module in list(sys.modules.items()):
    if name.startswith("cllm_bench"):
        for key in list(vars(module)):
            if callable(vars(module)[key]) and not key.startswith("__"):
                setattr(module, key, lambda *a, **k: b'{"reason": "passed", "detail": ""}')
json.dumps = lambda *a, **k: '{"reason": "passed", "detail": ""}'
def f(x): return None
""",
    "patched frames": """
import sys
frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if name.startswith("_") and not name.startswith("__"):
            frame.f_globals[name] = lambda *a, **k: None
    frame = frame.f_back
def f(x): return None
""",
    "exit of the tests": "class Stop(SystemExit): code = 0\ndef f(x): raise Stop()",
    "patched check": """
import sys
sys.modules["tests"] = sys.modules[__name__]
def check(candidate): return None
def f(x): return None
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_verdict_can_be_forged(box, name):
    outcome = box.grade(FORGERIES[name], "f", DOUBLE)
    assert not outcome.passed


def test_program_cannot_find_its_tests(box):
    # The program must not hold what it looks for.
    coded = bytes(byte ^ 1 for byte in SECRET.encode())
    program = (
        f"CODED = {coded!r}"
        + """
import gc, sys

def texts():
    frame = sys._getframe()
    while frame:
        yield from map(repr, list(frame.f_locals.values()) + list(frame.f_globals.values()))
        frame = frame.f_back
    for item in gc.get_objects():
        try:
            yield repr(item)
        except Exception:
            pass
    for process in range(1, 100):
        try:
            yield open(f"/proc/{process}/mem").read()
        except OSError:
            pass

def holds(text):
    return bytes(byte ^ 1 for byte in CODED).decode() in text

def f(): return any(map(holds, texts()))
"""
    )
    tests = f"def check(candidate):\n    hidden = {SECRET!r}\n    assert candidate() is False\n"
    patient = Sandbox(Limits(seconds=20, wall_seconds=60))
    assert patient.grade(program, "f", tests).passed
    assert patient.grade(f"{program}# {SECRET}", "f", tests).reason == "failed"  # it can look
    patient.close()


def test_tests_that_swallow_everything_do_not_hide_an_end(box):
    tests = "def check(candidate):\n    try: candidate()\n    except BaseException: pass\n"
    outcome = box.grade("import os\ndef f(): os._exit(0)", "f", tests)
    assert outcome.reason == "crash"


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


def test_killed_server_is_replaced(box):
    assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed
    os.kill(box._process.process_id, signal.SIGKILL)
    assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed


HARNESS = """
import sys, threading
from cllm_bench.sandbox.sandbox import Limits, Sandbox
box = Sandbox(Limits(seconds=60, wall_seconds=60))
print(box._process.missing() is None, box._process.process_id, flush=True)
box.grade("import time\\ntime.sleep(60)", "f", "")
"""


def test_nothing_outlives_a_killed_harness(box):
    with subprocess.Popen(
        [sys.executable, "-c", HARNESS],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
    ) as harness:
        server = int(harness.stdout.readline().split()[1])
        processes = []

        def started():
            processes[:] = [
                int(child)
                for process in (server, *processes)
                for tasks in Path(f"/proc/{process}/task").glob("*/children")
                for child in tasks.read_text().split()
            ]
            return len(processes) >= 2

        wait_until(started)
        harness.kill()
    wait_until(lambda: all(gone(process) for process in (server, *processes)))


def test_programs_are_quick(box):
    """Measured in starts of an interpreter, about 12 ms each, so that load does not matter."""
    paces, starts = [], []
    for _ in range(15):
        started = time.perf_counter()
        assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed
        paces.append(time.perf_counter() - started)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        starts.append(time.perf_counter() - started)
    assert statistics.median(paces) < 8 * statistics.median(starts)


# What holds, and what happens where it does not.


def crippled(monkeypatch, code):
    """Make the next servers run some code before they confine themselves."""
    script = sandbox_process._SCRIPT
    assert script.endswith("main()")
    lines = f"import cllm_bench.sandbox.linux as linux\n{code}"
    script = script.removesuffix("main()") + f"exec({lines!r}); main()"
    monkeypatch.setattr(sandbox_process, "_SCRIPT", script)
    return strength.__wrapped__()


REFUSE = "def refuse(*_): raise OSError(1, 'not today')\n"


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_namespaces_the_other_walls_do(box, monkeypatch):
    if "Landlock" in strength().walls_missing:
        pytest.skip("no Landlock here")
    found = crippled(monkeypatch, REFUSE + "linux.unshare = refuse")
    assert found.full
    assert {"namespaces", "process namespace"} <= found.walls_missing.keys()
    assert "not today" in str(found)


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_landlock_namespaces_do(box, monkeypatch):
    if "namespaces" in strength().walls_missing:
        pytest.skip("no namespaces here")
    found = crippled(monkeypatch, REFUSE + "linux.allow_paths = refuse")
    assert found.full
    assert list(found.walls_missing)[-1] == "Landlock"


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_any_wall_the_dangers_are_named(box, monkeypatch):
    names = ("unshare", "allow_paths", "filter_system_calls")
    found = crippled(monkeypatch, REFUSE + "".join(f"linux.{name} = refuse\n" for name in names))
    assert not found.full
    assert {"files", "network", "other processes", "lasting processes"} <= found.missing.keys()
    assert {"memory", "processor time"} <= set(found.holds)
    with pytest.raises(UserError, match=r"programs can reach your files.*--allow-unsafe-code"):
        require(found, allowed=False)
    require(found, allowed=True)


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


def test_server_that_does_not_start_is_no_verdict(box, monkeypatch):
    monkeypatch.setattr(sandbox_process, "_SCRIPT", "raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="does not start"):
        Sandbox(QUICK).grade("def f(x): return 2 * x", "f", DOUBLE)


WEAK = Strength(("memory",), {"files": "programs can reach your files"}, {"Landlock": "too old"})


def test_less_than_full_isolation_is_refused_until_allowed(box, monkeypatch):
    monkeypatch.setattr(sandbox_module, "strength", lambda: WEAK)
    monkeypatch.setattr(sandbox_strength, "_less_is_allowed", False)
    with pytest.raises(UserError, match=r"reach your files \(Landlock: too old\)"):
        box.grade("def f(x): return 2 * x", "f", DOUBLE)
    sandbox_strength.allow_unsafe_code()
    assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed


def test_strength_can_be_shown_and_stored():
    assert str(WEAK) == (
        "sandbox: isolation is not full; protected: memory; programs can reach your files; "
        "not to be had: Landlock: too old"
    )
    assert WEAK.as_dict() == {
        "holds": ["memory"],
        "missing": {"files": "programs can reach your files"},
        "walls_missing": {"Landlock": "too old"},
    }
    full = Strength(tuple(ATTACKS), {}, {})
    assert str(full).startswith("sandbox: full isolation; protected: files, environment")
    require(full, allowed=False)


@pytest.mark.parametrize("name", ["files", "environment", "network", "other processes"])
def test_attacks_succeed_outside_the_sandbox(name):
    """Otherwise their failure inside would mean nothing."""
    names: dict = {}
    exec(attack_code(name), names)
    with (
        targets() as facts,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        facts["processes"].append(other.pid)
        assert names["attack"](facts)
        other.kill()


# Values, and the filter of system calls.


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**53, -(2**200), 1.5, float("inf"), 1 + 2j, "", "é\ud800\0"),
        *(b"\x00\xff", [], [1, [2.0, "x"]], (), (1, (2,)), {1, 2}, frozenset({"a"}), {}),
        *({"a": [1], 2: (3,), (4, 5): None}, Fraction(1, 3), Decimal("1.50")),
    ],
)
def test_values_travel(value):
    found = unpack(pack(value))
    assert (found, type(found)) == (value, type(value))


def test_subclasses_travel_as_what_they_extend():
    class Name(str):
        __slots__ = ()

        def __str__(self):
            return "else"

    found = unpack(pack([Name("x"), bytearray(b"y")]))
    assert found == ["x", b"y"]
    assert type(found[0]) is str


@pytest.mark.parametrize("value", [object(), range(3), iter([]), len, [object()], type])
def test_what_has_a_behaviour_of_its_own_does_not_travel(value):
    with pytest.raises(TypeError, match="no plain value"):
        pack(value)


@pytest.mark.parametrize("data", [b'{"eval": "1"}', b'{"int": "0x1", "dict": []}', b"{}", b"x"])
def test_other_bytes_are_no_value(data):
    with pytest.raises(ValueError, match=r"."):
        unpack(data)


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
