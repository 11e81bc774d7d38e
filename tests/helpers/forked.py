"""Processes of their own, forked from a server that has imported the program once.

A new interpreter takes seconds for its imports, which are not what is tested.
"""

import multiprocessing
import os
import signal
import sys
from functools import cache

IMPORTED = (
    "cllm_bench.cli.app",
    "cllm_bench.measurement.runner",
    "cllm_bench.training.trainer",
    "cllm_bench_methods.cllm.recipe",
)


@cache
def _server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    return context


def start(log, function, *arguments, environment=None):
    """Start a function of a helper module; what it prints goes to the file `log`."""
    process = _server().Process(target=_run, args=(log, environment or {}, function, arguments))
    process.start()
    return process


def _run(log, environment, function, arguments):
    os.environ.update(environment)
    with log.open("wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    function(*arguments)


def ends_killed(log, function, *arguments):
    """Run a function of a helper module that ends its process by `die`."""
    process = start(log, function, *arguments)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.exists() and log.read_text()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def command(*arguments):
    """Run the program, as in a process that it has for itself."""
    from cllm_bench.cli.app import main

    sys.argv = ["cllm-bench", *map(str, arguments)]
    main()
