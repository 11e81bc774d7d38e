"""Runs programs that a model wrote and nobody has read, and tells whether they pass their tests.

How they are confined is told in `sandbox_confine`, and why a program cannot forge a verdict in
`sandbox_child`. What holds on this machine is found out by trying, in `sandbox_strength`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from cllm_bench.sandbox.isolation import require, strength
from cllm_bench.sandbox.limits import Limits
from cllm_bench.sandbox.process import SandboxProcess

__all__ = ["Limits", "Outcome", "Reason", "Sandbox"]

Reason = Literal["passed", "failed", "error", "timeout", "crash"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program.

    Attributes:
        reason: `failed`: the tests found it wrong; `error`: it, or the tests, raised something
            else; `crash`: it ended before the tests did.
        detail: What was raised, cut short. The program may have written it.
    """

    reason: Reason
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the tests found nothing wrong."""
        return self.reason == "passed"


class Sandbox:
    """Runs programs one after another, each in processes of its own.

    The tests call the program's function with plain values and get plain values back: numbers,
    texts, None, and lists, tuples, sets and dictionaries of them. Arguments are copies: a test does
    not see what the function does to them. Programs have Python's standard library and nothing
    else, print to nowhere, and may start threads but no processes.

    Args:
        limits: What each program may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process = SandboxProcess()

    def close(self) -> None:
        """End the processes that wait for the next program; it would start others."""
        self._process.close()

    def grade(self, program: str, entry: str, tests: str, context: str = "") -> Outcome:
        """Run a program before its tests.

        Args:
            program: Defines the function.
            entry: The function's name.
            tests: Define `check(candidate)`, which raises where the function is wrong.
            context: Code for the tests' own use; it may define a function of that name too, in
                place of which the tests get the program's.

        Raises:
            UserError: Isolation is less than full, and nobody has allowed that.
            RuntimeError: The sandbox does not work here.
        """
        require(strength())
        verdict = self._process.grade(self.limits, program, entry, tests, context)
        return Outcome(cast(Reason, verdict["reason"]), verdict["detail"])
