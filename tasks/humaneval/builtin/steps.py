"""Built-in functions that take a number, a list or a text through several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from .parts import (
    NUMBER_LISTS,
    NUMBERS_ALONE,
    TEXTS,
    Argument,
    Draft,
    Part,
    Picked,
    filled,
    merged,
    pick,
)

_FEW, _SMALL = (2, 3), range(2, 10)
# `<b>` is the other argument.
_NUMBER_STEPS: Mapping[str, Part] = {
    "plus": Part("<x> + <b>", "add <b>"),
    "minus": Part("<x> - <b>", "subtract <b>"),
    "times": Part("<x> * <b>", "multiply by <b>"),
    "larger": Part("max(<x>, <b>)", "take the larger of that and <b>"),
    "smaller": Part("min(<x>, <b>)", "take the smaller of that and <b>"),
    "from": Part("<b> - <x>", "subtract that from <b>"),
    "add": Part("<x> + <k>", "add <k>", constants=range(1, 10)),
    "subtract": Part("<x> - <k>", "subtract <k>", constants=range(1, 10)),
    "multiply": Part("<x> * <k>", "multiply by <k>", constants=_SMALL),
    "divide": Part("<x> // <k>", "divide by <k>, rounding down", constants=range(2, 6)),
    "modulo": Part("<x> % <k>", "take that modulo <k>", constants=range(3, 10)),
    "square": Part("<x> ** 2", "square that"),
    "absolute": Part("abs(<x>)", "drop the sign"),
    "floor": Part("max(<x>, <k>)", "raise that to at least <k>", constants=_SMALL),
    "cap": Part("min(<x>, <k>)", "cap that at <k>", constants=_SMALL),
}
# Behind these a result needs brackets.
_BINDING = ("times", "from", "multiply", "divide", "modulo", "square")
_LIST_STEPS: Mapping[str, Part] = {
    "rising": Part("sorted(<x>)", "sort in ascending order"),
    "falling": Part("sorted(<x>, reverse=True)", "sort in descending order"),
    "reverse": Part("<x>[::-1]", "reverse the order"),
    "drop": Part("<x>[<k>:]", "drop the first <k>", constants=_FEW),
    "keep": Part("<x>[:<k>]", "keep only the first <k>", constants=_FEW),
    "drop_last": Part("<x>[:-<k>]", "drop the last <k>", constants=_FEW),
    "keep_last": Part("<x>[-<k>:]", "keep only the last <k>", constants=_FEW),
    "second": Part("<x>[::2]", "keep every second one, from the first on"),
    "other": Part("<x>[1::2]", "keep every second one, from the second on"),
    "append": Part("<x> + [<k>]", "put <k> at the end", constants=_SMALL),
    "prepend": Part("[<k>] + <x>", "put <k> at the beginning", constants=_SMALL),
    "append_sum": Part("<x> + [sum(<x>)]", "put the sum at the end"),
    "prepend_length": Part("[len(<x>)] + <x>", "put the length at the beginning"),
    "twice": Part("<x> * 2", "repeat the whole"),
    "unique": Part("list(dict.fromkeys(<x>))", "drop what comes again"),
}
_TEXT_STEPS: Mapping[str, Part] = {
    "upper": Part("<x>.upper()", "put it in upper case"),
    "lower": Part("<x>.lower()", "put it in lower case"),
    "swap": Part("<x>.swapcase()", "swap upper and lower case"),
    "title": Part("<x>.title()", "capitalize every word"),
    "reverse": Part("<x>[::-1]", "reverse it"),
    "drop": Part("<x>[<k>:]", "drop the first <k> characters", constants=_FEW),
    "keep": Part("<x>[:<k>]", "keep only the first <k> characters", constants=range(3, 7)),
    "drop_last": Part("<x>[:-<k>]", "drop the last <k> characters", constants=_FEW),
    "keep_last": Part("<x>[-<k>:]", "keep only the last <k> characters", constants=range(3, 7)),
    "second": Part("<x>[::2]", "keep every second character, from the first on"),
    "append": Part('<x> + "<k>"', "put <k> at the end", constants="!?.-"),
    "prepend": Part('"<k>" + <x>', "put <k> at the beginning", constants="!?.-"),
    "twice": Part("<x> * 2", "repeat the whole"),
    "underscore": Part('<x>.replace(" ", "_")', "replace spaces by underscores"),
    "compress": Part('<x>.replace(" ", "")', "remove all spaces"),
    "remove": Part('<x>.replace("<k>", "")', "remove every <k>", constants="aeinorst"),
    "star": Part('<x>.replace("<k>", "*")', "replace every <k> by a star", constants="aeinorst"),
    "sort": Part('"".join(sorted(<x>))', "sort the characters"),
    "words": Part('" ".join(<x>.split()[::-1])', "reverse the order of the words"),
}


def list_steps(rng: Random) -> Draft:
    """Draw a function that takes a list through two or three steps."""
    argument = Argument(rng.choice(NUMBER_LISTS)[0], "numbers")
    return _draft("list", (argument,), _drawn(rng, _LIST_STEPS, rng.choice((2, 3, 3))))


def text_steps(rng: Random) -> Draft:
    """Draw a function that takes a text through two or three steps."""
    argument = Argument(rng.choice(TEXTS), "text")
    return _draft("text", (argument,), _drawn(rng, _TEXT_STEPS, rng.choice((2, 3, 3))))


def formula(rng: Random) -> Draft:
    """Draw a calculation: one expression for two steps, and a line a step for more."""
    name, other = rng.sample(NUMBERS_ALONE, 2)
    drawn = _drawn(rng, _NUMBER_STEPS, rng.choice((2, 2, 3)))
    steps = [
        step._replace(code=step.code.replace("<b>", other), says=step.says.replace("<b>", other))
        for step in drawn
    ]
    names = (name, other) if any("<b>" in step.code for step in drawn) else (name,)
    draft = _draft("formula", tuple(Argument(each, "number") for each in names), steps)
    if len(steps) > 2:
        return draft
    first, second = steps
    brackets = second.name in _BINDING and "(" not in first.code
    inner = f"({first.code})" if brackets else first.code
    code = second.code.replace("<x>", inner.replace("<x>", name))
    return replace(draft, body=f"return {code}")


def _drawn(rng: Random, known: Mapping[str, Part], count: int) -> list[Picked]:
    names = rng.sample(tuple(known), count)
    return [pick(rng, {name: known[name]}, place) for place, name in enumerate(names, 1)]


def _draft(kind: str, arguments: tuple[Argument, ...], steps: Sequence[Picked]) -> Draft:
    name = arguments[0].name
    *first, last = (step.says for step in steps)
    return Draft(
        parts=(kind, "steps", *(step.stem for step in steps)),
        arguments=arguments,
        says=f"Take {name}: {', '.join(first)}, and {last}.",
        body=_body(name, steps),
        constants=merged(steps),
        rivals=tuple(_body(name, [step for step in steps if step is not out]) for out in steps),
    )


def _body(name: str, steps: Sequence[Picked]) -> str:
    *first, last = (filled(step.code, {"<x>": name}) for step in steps)
    return "\n".join((*(f"{name} = {code}" for code in first), f"return {last}"))
