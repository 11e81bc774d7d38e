"""The parts that the built-in functions are composed of.

Texts and code hold marks until a function is finished: `<x>` is the value that a part is about,
`<q>` the function's second argument, `<k>` the part's constant (`<1>`, `<2>` … once it is drawn),
`<is>` and `<has>` verbs that follow the number of their noun.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

Kind = Literal["numbers", "number", "count", "text", "words"]  # of an argument
Constant = int | str

# Arguments, a list and one of its members.
NUMBER_LISTS = (
    ("numbers", "number"),
    ("values", "value"),
    ("items", "item"),
    ("scores", "score"),
    ("prices", "price"),
    ("points", "point"),
    ("amounts", "amount"),
    ("sizes", "size"),
    ("levels", "level"),
    ("ages", "age"),
)
WORD_LISTS = (
    ("words", "word"),
    ("names", "name"),
    ("labels", "label"),
    ("keys", "key"),
    ("tags", "tag"),
    ("titles", "title"),
)
TEXTS = ("text", "line", "sentence", "message", "phrase", "note")
COUNTS = ("n", "count", "end", "top", "last")
NUMBERS_ALONE = ("a", "b", "c", "m", "n", "x", "y", "z")
SECOND_NUMBERS = ("limit", "bound", "step", "offset", "factor", "delta")


class Argument(NamedTuple):
    """An argument of a function."""

    name: str
    kind: Kind


class Part(NamedTuple):
    """A condition, a change or a result.

    Attributes:
        code: An expression.
        says: The same in words.
        order: The same as an order.
        constants: What `<k>` can be.
        stem: Name of the part of which this is a case, such as `multiple` for `even`: of functions
            that differ in nothing else, all are in one split.
    """

    code: str
    says: str
    order: str = ""
    constants: Sequence[Constant] = ()
    stem: str = ""


class Picked(NamedTuple):
    """A part with its constant, which stands in the words; the code holds its mark."""

    name: str
    stem: str
    code: str
    says: str
    order: str
    constants: Mapping[str, Constant]


@dataclass(frozen=True, slots=True)
class Draft:
    """A function before it has a name, examples and tests.

    Attributes:
        parts: Stems of what it does, without constants, names and wording. Drafts with the same
            parts are told apart by their constants alone.
        arguments: Its arguments.
        says: What its docstring says.
        body: Its lines, with a mark for each constant.
        constants: What stands in those places.
        rivals: Bodies that leave a part out: tests must tell them from this one.
    """

    parts: tuple[str, ...]
    arguments: tuple[Argument, ...]
    says: str
    body: str
    constants: Mapping[str, Constant] = field(default_factory=dict)
    rivals: tuple[str, ...] = ()


def pick(rng: Random, parts: Mapping[str, Part], place: int) -> Picked:
    """Draw a part, and its constant, which gets a numbered mark."""
    name = rng.choice(tuple(parts))
    part = parts[name]
    stem = part.stem or name
    if not part.constants:
        return Picked(name, stem, part.code, part.says, part.order, {})
    mark, constant = f"<{place}>", rng.choice(part.constants)
    shown = {"<k>": constant if isinstance(constant, int) else f"'{constant}'"}
    return Picked(
        name=name,
        stem=stem,
        code=part.code.replace("<k>", mark),
        says=filled(part.says, shown),
        order=filled(part.order, shown),
        constants={mark: constant},
    )


def merged(parts: Iterable[Picked]) -> dict[str, Constant]:
    """Return the constants of all parts."""
    return {mark: value for part in parts for mark, value in part.constants.items()}


def filled(text: str, marks: Mapping[str, object]) -> str:
    """Return a text with something in place of its marks."""
    for mark, value in marks.items():
        text = text.replace(mark, str(value))
    return text


def indented(text: str) -> str:
    """Return lines one level further in."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
