"""The words of the built-in word problems, and what a story is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Pool(NamedTuple):
    """Words that fit one another, in the singular."""

    things: tuple[str, ...]
    boxes: tuple[str, ...]


class Wording(NamedTuple):
    """A way to tell a story, and the steps that solve it.

    In the texts, `{A}`, `{B}` and `{C}` are people; `{She}`, `{she}` and `{him}` stand for A;
    `{things}` and `{others}` are from the story's pool, as is the `{box}` that holds them; `{day}`
    and `{later}` are two days. Of `(has|owns)` one is drawn. A step holds its arithmetic in
    brackets: `[s = a + b]` is written as `12 + 7 = 19`, and `s` is 19 from there on. The last one
    is the answer.
    """

    question: str
    steps: tuple[str, ...]


class Story(NamedTuple):
    """What happens with a few numbers.

    Attributes:
        pool: Name of the words for the things that it is about.
        ranges: The least and the greatest value of each number, in the order of their letters.
        wordings: All with the same arithmetic.
    """

    pool: str
    ranges: tuple[tuple[int, int], ...]
    wordings: tuple[Wording, ...]


def told(question: str, *steps: str) -> Wording:
    """Return a wording."""
    return Wording(question, steps)


def plural(noun: str) -> str:
    """Return the plural of one of the nouns below."""
    return f"{noun}es" if noun.endswith(("ch", "x")) else f"{noun}s"


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


POOLS: Mapping[str, Pool] = {
    "toys": Pool(
        _split("marble coin stamp sticker shell button bead card badge ribbon"),
        _split("box bag jar"),
    ),
    "fruit": Pool(
        _split("apple pear plum lemon orange peach banana carrot onion melon"),
        _split("basket bag crate"),
    ),
    "baking": Pool(
        _split("cookie muffin roll bun tart cake pie waffle pancake cracker"),
        _split("box tray basket"),
    ),
    "paper": Pool(
        _split("pencil pen marker crayon eraser notebook folder ruler poster envelope"),
        _split("box bag pack"),
    ),
}
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
WOMEN = _split(
    "Anna Clara Emma Grace Irene Karen Maria Olga Rosa Tina Vera Zoe Nina Julia Lucy Helen "
    "Alice Diana Mia Sara Ella Ruth Laura Eva"
)
MEN = _split(
    "Ben David Felix Henry Jack Leo Noah Paul Oscar Tom Victor Adam Carl Sam Max Peter "
    "Daniel Eric George Hugo Ivan Luke Mark Simon"
)
