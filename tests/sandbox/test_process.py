"""The sandbox's server process: its replacement, its end and its speed."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandbox_programs import DOUBLE, QUICK, gone, wait_until

from cllm_bench.sandbox import process as sandbox_process
from cllm_bench.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


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


def test_server_that_does_not_start_is_no_verdict(box, monkeypatch):
    monkeypatch.setattr(sandbox_process, "_SCRIPT", "raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="does not start"):
        Sandbox(QUICK).grade("def f(x): return 2 * x", "f", DOUBLE)
