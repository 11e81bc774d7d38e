"""The shape of forward passes, and a log that counts them by shape."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

AFTER = " after "


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
