"""How long passes of each shape take alone, and the speedup that this predicts.

A run counts the passes of every reply by their shape: weights, rows, whether the rows form a tree,
and whether the pass before ran other weights. In pauses of the run, and at its end, each shape is
timed by itself. A reply's passes at these times, over its tokens, is the pace that the method would
have if nothing but its passes took time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cllm_bench.results.rows import Row

AFTER = " after "
TURN = 5  # timed passes in a row
TURNS = 5  # where shapes are timed once


class Shape(NamedTuple):
    """What decides how long a pass takes, at a given context.

    Attributes:
        role: Whose weights.
        rows: New tokens of the pass, T; of Medusa heads, how many of them.
        tree: Whether each row has a mask of its own.
        after: Whose weights the pass before it ran, where they are others: a small model's own are
            no longer in the processor's caches then.
    """

    role: str
    rows: int
    tree: bool
    after: str = ""

    def __str__(self) -> str:
        behind = f"{AFTER}{self.after}" if self.after else ""
        return f"{self.rows}{'t' if self.tree else ''} {self.role}{behind}"


def parse_shape(text: str) -> Shape:
    """Read what `str(shape)` wrote, such as `16 cllm`, `13t target` or `5 target after draft`.

    Raises:
        ValueError: It is nothing of the kind.
    """
    rows, _, names = text.partition(" ")
    role, _, after = names.partition(AFTER)
    if not role:
        raise ValueError(f"{text!r} is no shape of a pass")
    return Shape(role, int(rows.removesuffix("t")), rows.endswith("t"), after)


class PassLog:
    """Counts the passes that all weights of a family run, by shape."""

    def __init__(self) -> None:
        self._counts: Counter[Shape] = Counter()
        self._newest = ""

    def prefilled(self, role: str) -> None:
        """Note whose weights have run a prompt, which counts as no pass."""
        self._newest = role

    def add(self, role: str, rows: int, tree: bool) -> None:
        """Count a pass."""
        after = "" if self._newest == role else self._newest
        self._counts[Shape(role, rows, tree, after)] += 1
        self._newest = role

    def take(self) -> dict[str, int]:
        """Return the counts since the last call, by shape as text; what follows is a new reply."""
        found = {str(shape): count for shape, count in self._counts.items()}
        self._counts.clear()
        self._newest = ""
        return found


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


def predicted_paces(
    samples: Mapping[str, Sequence[Row]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return the seconds per decoded token that a sample's passes alone would take.

    Args:
        samples: Rows by sample; repeats have the same passes, and the first is taken.
        seconds: Of a pass, by shape.

    Returns:
        By sample; those are left out whose passes are unknown.
    """
    paces = {}
    for name, rows in samples.items():
        row = rows[0]
        known = row.pass_shapes and all(shape in seconds for shape in row.pass_shapes)
        if known and row.decoded_tokens:
            total = sum(count * seconds[shape] for shape, count in row.pass_shapes.items())
            paces[name] = total / row.decoded_tokens
    return paces
