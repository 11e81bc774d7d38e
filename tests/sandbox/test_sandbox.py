"""Verdicts on programs: passed, failed, error, crash and timeout."""

from __future__ import annotations

import os
import time

import pytest
from sandbox_programs import DOUBLE, QUICK

from cllm_bench.sandbox.sandbox import Limits, Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


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
