"""Verdicts come from the judging process alone: no program can forge one or find its tests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sandbox_programs import DOUBLE, SECRET

from cllm_bench.sandbox.child import _end
from cllm_bench.sandbox.sandbox import Limits, Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


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
