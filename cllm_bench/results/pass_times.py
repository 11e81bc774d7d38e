"""Times of forward passes of each shape, measured alone, and the speedup that they predict.

A run counts the passes of every reply by their shape: weights, rows, whether the rows form a tree,
and whether the pass before ran other weights. In pauses of the run, and at its end, each shape is
timed by itself. A reply's passes at these times, over its tokens, is the pace that the method would
have if nothing but its passes took time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cllm_bench.engine.passes import Shape, parse_shape
from cllm_bench.results.rows import Row


@dataclass(frozen=True, slots=True)
class PassTime:
    """One line of `passes.jsonl`.

    Attributes:
        task: Label of the task whose context it was measured at.
        shape: Of the pass, as text.
        context: Committed tokens, L.
        seconds: Median of `repeats` passes, with the choice of each row's likeliest token. What
            many pauses of a run measured, a line each, counts together.
        repeats: How many.
        attempt: Which process measured it.
    """

    task: str
    shape: str
    context: int
    seconds: float
    repeats: int
    attempt: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `parse_pass_time` reads."""
        return asdict(self)


def parse_pass_time(value: Any) -> PassTime:
    """Read one JSON object.

    Raises:
        ValueError: A key is missing or its value is of the wrong kind.
    """
    try:
        found = PassTime(**{name: value[name] for name in PassTime.__slots__})
        parse_shape(found.shape)
        if not found.seconds > 0:
            raise ValueError(f"a pass of {found.seconds!r} seconds")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no time of a pass: {error}") from None
    return found


def missing_shapes(rows: Iterable[Row], task: str, known: Iterable[PassTime]) -> list[Shape]:
    """Return the shapes that a task's replies ran and that nobody has timed yet, in order."""
    timed = {each.shape for each in known if each.task == task}
    run = {shape for row in rows if row.task == task for shape in row.pass_shapes}
    return sorted(map(parse_shape, run - timed))
