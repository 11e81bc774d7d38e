"""Built-in functions that choose members of a collection, change them, and make something of them.

Wording and code go together, so that a docstring tells which form its function has: a loop is one
where the docstring says "go through".
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from .domains import Domain, Source
from .parts import Argument, Draft, Picked, filled, indented, merged, pick

_ADJECTIVES = ("even", "odd", "positive", "negative")
_AS_IS = Picked("same", "same", "<x>", "", "", {})


def selection(domain: Domain, rng: Random) -> Draft:
    """Draw a function of one expression."""
    source, conditions, change = _material(domain, rng)
    name = rng.choice(tuple(domain.ends))
    end = domain.ends[name]
    chosen = _chosen(rng, source, conditions)
    if rng.random() < 0.5:
        how = f", each {change.says}" if change.says else ""
        says = f"Return {end.of} {chosen}{how}{end.tail}."
    else:
        orders = ", ".join(filter(None, (f"Take {chosen}", change.order)))
        says = f"{orders} and {end.order}{end.tail}."
    bodies = [
        end.body.replace("<all>", f"{each.code} for <x> in {source.code}{_if(chosen_by)}")
        for chosen_by, each in _leaving_out(conditions, change)
    ]
    parts = (domain.name, source.name, *_stems(conditions), change.stem, name)
    return _draft(domain, source, parts, says, bodies, [*conditions, change], rng)


def loop(domain: Domain, rng: Random) -> Draft:
    """Draw a function with a loop."""
    source, conditions, change = _material(domain, rng)
    name = rng.choice(tuple(domain.loops))
    parts_of_loop = domain.loops[name]
    how = f", each {change.says}" if change.says else ""
    those = f"those that {_clause(conditions)}" if conditions else "all of them"
    says = f"Go through {source.says} and {parts_of_loop.verb} {those}{how}."
    bodies = []
    for chosen_by, each in _leaving_out(conditions, change):
        step = parts_of_loop.step.replace("<change>", each.code)
        if chosen_by:
            step = f"if {_joined(chosen_by)}:\n{indented(step)}"
        lines = (parts_of_loop.start, f"for <x> in {source.code}:", indented(step))
        bodies.append("\n".join((*lines, parts_of_loop.end)))
    parts = (domain.name, source.name, *_stems(conditions), change.stem, name)
    return _draft(domain, source, parts, says, bodies, [*conditions, change], rng)


def either(domain: Domain, rng: Random) -> Draft:
    """Draw a function that changes some members in one way and all others in another."""
    source = rng.choice(domain.sources)
    condition = pick(rng, domain.conditions, 1)
    first, second = pick(rng, domain.changes, 2), pick(rng, domain.changes, 3)
    name, end = rng.choice(
        [(name, end) for name, end in domain.ends.items() if "\n" not in end.body]
    )
    clause = _clause([condition])
    says = (
        f"Take {source.says}. Those that {clause} are {first.says}, all others are {second.says}. "
        f"{end.order[0].upper()}{end.order[1:]}{end.tail}."
    )
    bodies = [
        end.body.replace("<all>", f"{code} for <x> in {source.code}")
        for code in (
            f"{first.code} if {condition.code} else {second.code}",
            first.code,
            second.code,
            f"<x> if {condition.code} else {second.code}",
            f"{first.code} if {condition.code} else <x>",
        )
    ]
    parts = (domain.name, source.name, "either", condition.stem, first.stem, second.stem, name)
    return _draft(domain, source, parts, says, bodies, [condition, first, second], rng)


def balance(domain: Domain, rng: Random) -> Draft:
    """Draw a function with a loop that has two ways: numbers are added or subtracted."""
    source = rng.choice(domain.sources)
    condition = pick(rng, domain.conditions, 1)
    first, second = pick(rng, domain.changes, 2), pick(rng, domain.changes, 3)
    says = (
        f"Go through {source.says}. Add those that {_clause([condition])}, each {first.says}. "
        f"Subtract all others, each {second.says}. Return the total."
    )
    lines = "total = 0\nfor <x> in {}:\n    if {}:\n        total += {}\n    else:\n"
    lines += "        total -= {}\nreturn total"
    bodies = [
        lines.format(source.code, condition.code, yes, no)
        for yes, no in (
            (first.code, second.code),
            (first.code, "<x>"),
            ("<x>", second.code),
            (second.code, first.code),
        )
    ]
    parts = (domain.name, source.name, "balance", condition.stem, first.stem, second.stem)
    return _draft(domain, source, parts, says, bodies, [condition, first, second], rng)


def question(domain: Domain, rng: Random) -> Draft:
    """Draw a function that counts, finds, or tells whether there is something."""
    source = rng.choice(domain.sources)
    conditions = _conditions(domain, rng, rng.choice((1, 2, 2, 2)))
    nothing, nothing_in_words = domain.nothing
    clause, one = _clause(conditions), _clause(conditions, plural=False)
    find = "for <x> in {}:\n    if {}:\n        return <x>\nreturn " + nothing
    reverse = "[::-1]" if source.name != "range" else ""
    name, code, says = rng.choice(
        (
            ("count", "return len([<x> for <x> in {} if {}])", "how many of {} {plural}"),
            ("all", "return all({1} for <x> in {0})", "whether all of {} {plural}"),
            ("any", "return any({1} for <x> in {0})", "whether any of {} {plural}"),
            ("first", find, f"the first of {{}} that {{one}}, or {nothing_in_words}"),
            (
                "last",
                find.replace("in {}", f"in {{}}{reverse}") if reverse else find,
                f"the last of {{}} that {{one}}, or {nothing_in_words}",
            ),
            (
                "positions",
                "return [i for i, <x> in enumerate({}) if {}]",
                "the positions, from 0 on, of {} that {plural}",
            ),
        )[: 6 if reverse else 4]
    )
    bodies = [code.format(source.code, _joined(conditions))]
    bodies += [code.format(source.code, each.code) for each in conditions if len(conditions) > 1]
    says = f"Return {says.format(source.says, plural=clause, one=one)}."
    parts = (domain.name, source.name, "question", *_stems(conditions), name)
    return _draft(domain, source, parts, says, bodies, conditions, rng)


def _material(domain: Domain, rng: Random) -> tuple[Source, list[Picked], Picked]:
    source = rng.choice(domain.sources)
    conditions = _conditions(domain, rng, rng.choice((0, 1, 1, 1, 2)))
    if conditions and rng.random() < 0.1 and domain.name != "lengths":
        return source, conditions, _AS_IS
    return source, conditions, pick(rng, domain.changes, 3)


def _conditions(domain: Domain, rng: Random, count: int) -> list[Picked]:
    found: dict[str, Picked] = {}
    while len(found) < count:
        condition = pick(rng, domain.conditions, 1 + len(found))
        found.setdefault(condition.name, condition)
    return list(found.values())


def _leaving_out(
    conditions: Sequence[Picked], change: Picked
) -> list[tuple[Sequence[Picked], Picked]]:
    """Return a function's conditions and change, and those of its rivals."""
    others = [tuple(each for each in conditions if each is not out) for out in conditions]
    return [(conditions, change), *((each, change) for each in others), (conditions, _AS_IS)]


def _if(conditions: Sequence[Picked]) -> str:
    return f" if {_joined(conditions)}" if conditions else ""


def _joined(conditions: Sequence[Picked]) -> str:
    return " and ".join(each.code for each in conditions)


def _clause(conditions: Sequence[Picked], *, plural: bool = True) -> str:
    verbs = ("are", "have") if plural else ("is", "has")
    return " and ".join(
        filled(each.says, dict(zip(("<is>", "<has>"), verbs, strict=True))) for each in conditions
    )


def _chosen(rng: Random, source: Source, conditions: Sequence[Picked]) -> str:
    """Return `the even values`, `the values that are even`, or `the values`."""
    if not conditions:
        return source.says
    name = conditions[0].name
    short = len(conditions) == 1 and name in _ADJECTIVES and source.argument.kind == "numbers"
    if short and rng.random() < 0.5:
        return source.says.replace("the ", f"the {name} ", 1)
    return f"{source.says} that {_clause(conditions)}"


def _stems(conditions: Sequence[Picked]) -> list[str]:
    return sorted(each.stem for each in conditions)


def _draft(
    domain: Domain,
    source: Source,
    parts: tuple[str, ...],
    says: str,
    bodies: Sequence[str],
    picked: Sequence[Picked],
    rng: Random,
) -> Draft:
    """Finish a draft; the first body is its own, the others are its rivals'."""
    second = rng.choice([name for name in domain.second if name != source.argument.name])
    marks = {"<x>": source.noun, "<q>": second}
    arguments = [source.argument]
    if "<q>" in bodies[0]:
        arguments.append(Argument(second, "count" if "* <q>" in bodies[0] else "number"))
    own, *rivals = dict.fromkeys(filled(body, marks) for body in bodies)
    constants = merged(picked)
    return Draft(parts, tuple(arguments), filled(says, marks), own, constants, tuple(rivals))
