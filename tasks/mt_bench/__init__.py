"""MT-bench: two-turn conversations, graded by a judge."""

from .task import MtBench

__all__ = ["MtBench"]
