"""Stored spread of rounding: how far a checkpoint's choices move between passes of two shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt

from cllm_bench.results.schema import to_json


@dataclass(frozen=True, slots=True)
class Rounding:
    """One line of `rounding.jsonl`: a checkpoint on a task, measured before its first question.

    Attributes:
        task: Label of the task.
        checkpoint: Role of the checkpoint.
        attempt: Which process measured it: 0 for the first, 1 for the first resume, and so on.
        tolerance: What a token's logit may lack of the best one for its choice to be a numerical
            tie; null where it was not measured, and some roundings of the largest logit count.
        within: Share of the positions whose two likeliest tokens are that close.
        flips: Share of the positions at which a pass chooses another token than a pass over one row
            by rounding alone, by its shape: the number of its rows, with a `t` for a tree.
        positions: Tokens of the baseline's replies that were compared.
        replies: Replies that they belong to.
        seconds: Seconds that the measurement took.
        reason: Why nothing was measured, if so.
    """

    task: str
    checkpoint: str
    attempt: NonNegativeInt
    tolerance: NonNegativeFloat | None = None
    within: float | None = None
    flips: Mapping[str, float] = field(default_factory=dict)
    positions: NonNegativeInt = 0
    replies: NonNegativeInt = 0
    seconds: float = 0.0
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return to_json(self)
