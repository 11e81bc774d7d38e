"""Times of forward passes of each shape, measured alone, and the speedup that they predict.

A run counts the passes of every reply by their shape: weights, rows, whether the rows form a tree,
and whether the pass before ran other weights. In pauses of the run, and at its end, each shape is
timed by itself. A reply's passes at these times, over its tokens, is the pace that the method would
have if nothing but its passes took time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, PositiveFloat

from cllm_bench.engine.passes import Shape, parse_shape
from cllm_bench.results.rows import Row
from cllm_bench.results.schema import to_json


def _shape(text: str) -> str:
    parse_shape(text)
    return text


@dataclass(frozen=True, slots=True)
class PassTime:
    """One line of `passes.jsonl`.

    Attributes:
        task: Label of the task whose context it was measured at.
        shape: Shape of the pass, as in a row's `pass_shapes`.
        context: Committed tokens before the pass.
        seconds: Median seconds of a pass, with the choice of each row's likeliest token. What many
            pauses of a run measured, a line each, counts together.
        repeats: Passes that were timed.
        attempt: Which process measured it: 0 for the first, 1 for the first resume, and so on.
    """

    task: str
    shape: Annotated[str, AfterValidator(_shape)]
    context: int
    seconds: PositiveFloat
    repeats: int
    attempt: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return to_json(self)


def missing_shapes(rows: Iterable[Row], task: str, known: Iterable[PassTime]) -> list[Shape]:
    """Return the shapes that a task's replies ran and that nobody has timed yet, in order."""
    timed = {each.shape for each in known if each.task == task}
    run = {shape for row in rows if row.task == task for shape in row.pass_shapes}
    return sorted(map(parse_shape, run - timed))
