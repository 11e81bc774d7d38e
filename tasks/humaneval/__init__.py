"""HumanEval: programs, graded by their tests in a sandbox."""

from .task import HumanEval

__all__ = ["HumanEval"]
