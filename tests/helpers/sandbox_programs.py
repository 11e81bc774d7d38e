"""Limits, tests and process look-ups that the sandbox's tests share."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from cllm_bench.sandbox import process as sandbox_process
from cllm_bench.sandbox.isolation import strength
from cllm_bench.sandbox.sandbox import Limits

QUICK = Limits(seconds=1, wall_seconds=40, memory_bytes=512 << 20, file_bytes=1 << 20)


SECRET = "a-secret-that-only-the-tests-know"


DOUBLE = (
    "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('ab') == 'abab'\n"
)


DONE = "def check(candidate):\n    assert candidate() == 'done'\n"


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


REFUSE = "def refuse(*_): raise OSError(1, 'not today')\n"


def crippled(monkeypatch, code):
    """Make the next servers run some code before they confine themselves."""
    script = sandbox_process._SCRIPT
    assert script.endswith("main()")
    lines = f"import cllm_bench.sandbox.linux as linux\n{code}"
    script = script.removesuffix("main()") + f"exec({lines!r}); main()"
    monkeypatch.setattr(sandbox_process, "_SCRIPT", script)
    return strength.__wrapped__()
