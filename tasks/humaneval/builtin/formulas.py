"""Built-in functions with several ways to a result, and over two lists side by side."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from .domains import NUMBERS
from .parts import NUMBER_LISTS, NUMBERS_ALONE, Argument, Draft, Part, Picked, filled, merged, pick

_SMALL = range(2, 10)


_RESULTS: Mapping[str, Part] = {
    "sum": Part("<a> + <b>", "<a> plus <b>"),
    "difference": Part("<a> - <b>", "<a> minus <b>"),
    "reverse": Part("<b> - <a>", "<b> minus <a>"),
    "product": Part("<a> * <b>", "<a> times <b>"),
    "larger": Part("max(<a>, <b>)", "the larger of <a> and <b>"),
    "smaller": Part("min(<a>, <b>)", "the smaller of <a> and <b>"),
    "distance": Part("abs(<a> - <b>)", "the distance from <a> to <b>"),
    "times_first": Part("<a> * <k>", "<a> times <k>", constants=_SMALL),
    "times_second": Part("<b> * <k>", "<b> times <k>", constants=_SMALL),
    "plus_first": Part("<a> + <k>", "<a> plus <k>", constants=range(1, 10)),
    "plus_second": Part("<b> + <k>", "<b> plus <k>", constants=range(1, 10)),
    "minus_first": Part("<a> - <k>", "<a> minus <k>", constants=range(1, 10)),
    "square_first": Part("<a> ** 2", "the square of <a>"),
    "square_second": Part("<b> ** 2", "the square of <b>"),
    "modulo_first": Part("<a> % <k>", "<a> modulo <k>", constants=range(3, 10)),
    "half": Part("<b> // <k>", "<b> divided by <k>, rounded down", constants=range(2, 5)),
    "constant": Part("<k>", "<k>", constants=range(0, 10)),
}
_RELATIONS: Mapping[str, Part] = {
    "greater": Part("<a> > <b>", "<a> is greater than <b>"),
    "less": Part("<a> < <b>", "<a> is less than <b>"),
    "total_above": Part("<a> + <b> > <k>", "<a> plus <b> is greater than <k>", constants=_SMALL),
    "total_even": Part("(<a> + <b>) % 2 == 0", "<a> plus <b> is even"),
    "apart": Part("abs(<a> - <b>) > <k>", "<a> and <b> are more than <k> apart", constants=_SMALL),
} | {
    f"{name} {argument}": Part(
        part.code.replace("<x>", argument),
        f"{argument} {part.says.replace('<is>', 'is')}",
        constants=part.constants,
        stem=f"{part.stem or name} {argument}",
    )
    for name, part in NUMBERS.conditions.items()
    for argument in ("<a>", "<b>")
    if "<q>" not in part.code
}


def branches(rng: Random) -> Draft:
    """Draw a function of two numbers with two or three ways to its result."""
    first, second = rng.sample(NUMBERS_ALONE, 2)
    ways = rng.choice((1, 1, 1, 2))
    conditions = [pick(rng, _RELATIONS, place) for place in (1, 2)[:ways]]
    results = [pick(rng, _RESULTS, place) for place in (3, 4, 5)[: ways + 1]]
    lines = [
        f"if {condition.code}:\n    return {result.code}"
        for condition, result in zip(conditions, results, strict=False)
    ]
    if ways == 1 and rng.random() < 0.5:
        says = f"Return {results[0].says} if {conditions[0].says}, and otherwise {results[1].says}."
    else:
        clauses = [
            f"if {condition.says}, return {result.says}"
            for condition, result in zip(conditions, results, strict=False)
        ]
        says = f"{'; or else, '.join(clauses)}; otherwise, return {results[-1].says}."
        says = says[0].upper() + says[1:]
    last = f"return {results[-1].code}"
    bodies = ["\n".join((*lines, last)), *(f"return {each.code}" for each in results)]
    if ways == 2:
        bodies += ["\n".join((line, last)) for line in lines]
    marks = {"<a>": first, "<b>": second}
    own, *rivals = dict.fromkeys(filled(body, marks) for body in bodies)
    return Draft(
        ("branches", *(each.stem for each in (*conditions, *results))),
        (Argument(first, "number"), Argument(second, "number")),
        filled(says, marks),
        own,
        merged([*conditions, *results]),
        tuple(rivals),
    )


def pairs(rng: Random) -> Draft:
    """Draw a function over the pairs that two lists make."""
    (left, first), (right, second) = rng.sample(NUMBER_LISTS, 2)
    condition = pick(rng, _RELATIONS, 1) if rng.random() < 0.8 else None
    result = pick(rng, {k: v for k, v in _RESULTS.items() if k != "constant"}, 2)
    name, end = rng.choice(tuple(NUMBERS.ends.items())[:-1])
    when = f" where {condition.says}" if condition else ""
    says = (
        f"Go through {left} and {right} side by side, as <a> and <b>. For each pair{when} "
        f"take {result.says}, and {end.order}{end.tail}."
    )
    all_pairs = f" for <a>, <b> in zip({left}, {right})"
    where = f" if {condition.code}" if condition else ""
    bodies = [
        end.body.replace("<all>", code + all_pairs + chosen)
        for code, chosen in (
            (result.code, where),
            (result.code, ""),
            ("<a>", where),
            ("<b>", where),
        )
    ]
    marks = {"<a>": first, "<b>": second}
    own, *rivals = dict.fromkeys(filled(body, marks) for body in bodies)
    picked: list[Picked] = [each for each in (condition, result) if each]
    return Draft(
        ("pairs", *(each.stem for each in picked), name),
        (Argument(left, "numbers"), Argument(right, "numbers")),
        filled(says, marks),
        own,
        merged(picked),
        tuple(rivals),
    )
