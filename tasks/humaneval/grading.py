"""Grades replies to HumanEval by running them, and estimates pass@k."""

from __future__ import annotations

import functools
import math

from cllm_bench.sandbox.sandbox import Limits, Sandbox

from .extraction import program_of

# Seconds on the clock for each second of work, so that a busy machine fails no good program.
_PATIENCE = 4


def passes(prompt: str, entry: str, tests: str, reply: str, timeout: float) -> bool:
    """Tell whether the function that a reply completes passes its tests.

    Args:
        prompt: Signature and docstring.
        entry: The function's name.
        tests: Code that defines `check(candidate)`.
        reply: What the model wrote.
        timeout: Seconds of processor time.

    Raises:
        UserError: Isolation is less than full, and nobody has allowed that.
    """
    return _passes(program_of(prompt, entry, reply), entry, tests, prompt, timeout)


@functools.lru_cache(maxsize=4096)  # exact methods give the same reply, and repeats do
def _passes(program: str, entry: str, tests: str, context: str, timeout: float) -> bool:
    return _sandbox(timeout).grade(program, entry, tests, context).passed


@functools.lru_cache(maxsize=4)
def _sandbox(timeout: float) -> Sandbox:
    return Sandbox(Limits(seconds=timeout, wall_seconds=_PATIENCE * timeout))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of pass@k for one problem (Chen et al., 2021, equation 1).

    It is the chance that k of the samples, drawn without replacement, hold a correct one.

    Args:
        samples: Replies to the problem.
        correct: Those that passed.
        k: At most as many as there are replies.

    Raises:
        ValueError: The counts make no sense.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {correct} correct ones among {samples} replies")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
