"""Conversations of the built-in sample that reason, compute, program and compare."""

from __future__ import annotations

from random import Random

from .words import ARGUMENTS, MEASURES, NOUNS, OPERATIONS, PEOPLE, RELATIONS, VERBS, FollowUp, Talk

_MOST = 99  # of any result: a small model learns sums of two digits


def reasoning(rng: Random) -> Talk:
    """Put three people in order from two comparisons; then ask for more."""
    first, middle, last, new = rng.sample(PEOPLE, 4)
    relation = rng.choice(tuple(RELATIONS))
    most, least = RELATIONS[relation]
    told = [f"{first} is {relation} than {middle}.", f"{middle} is {relation} than {last}."]
    rng.shuffle(told)
    turn = rng.choice(
        (
            f"{' '.join(told)} Who is the {most}?",
            f"Who is the {most} of three friends? {' '.join(told)}",
            f"Find the {most}: {' '.join(told)}",
        )
    )
    reply = (
        f"{first} is {relation} than {middle}, and {middle} is {relation} than {last}. So {first} "
        f"is the {most}."
    )
    then = rng.choice(
        (
            FollowUp(
                f"And who is the {least}?",
                f"{last} is the {least}: {first} and {middle} are both {relation}.",
            ),
            FollowUp(f"Name all three, the {most} first.", f"In order: {first}, {middle}, {last}."),
            FollowUp(
                f"{last} is {relation} than {new}. Where does {new} come?",
                f"{new} comes last: {first}, {middle}, {last}, {new}.",
            ),
            FollowUp(
                f"Now {new} joins, who is {relation} than {first}. Who is the {most} then?",
                f"{new} is {relation} than {first}. So {new} is the {most}.",
            ),
        )
    )
    return Talk((relation, first, middle, last), (turn, then.turn), (reply, then.reply))


def math(rng: Random) -> Talk:
    """Compute in two steps; then go on from the result."""
    one, two = rng.randint(10, 60), rng.randint(5, 39)
    total = one + two
    less = rng.randint(3, total - 5)
    result = total - less
    turn = rng.choice(
        (
            f"What is {one} plus {two} minus {less}?",
            f"Add {two} to {one}, then take away {less}.",
            f"Start with {one}, add {two} and subtract {less}. What do you get?",
        )
    )
    reply = f"{one} + {two} = {total}\n{total} - {less} = {result}\nThe result is {result}."
    more, fewer = rng.randint(1, _MOST - result), rng.randint(1, result - 1)
    then = [
        FollowUp(
            rng.choice((f"Add {more} to that.", f"And {more} more?")), _step(result, "+", more)
        ),
        FollowUp(
            rng.choice((f"Now take {fewer} away.", f"Subtract {fewer} from your result.")),
            _step(result, "-", fewer),
        ),
    ]
    if 2 * result <= _MOST:
        then.append(FollowUp("Double your result.", _step(result, "*", 2)))
    chosen = rng.choice(then)
    return Talk((one, two, less), (turn, chosen.turn), (reply, chosen.reply))


def _step(left: int, sign: str, right: int) -> str:
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return f"{left} {sign} {right} = {result}\nThe result is {result}."


def coding(rng: Random) -> Talk:
    """Write a function; then change it."""
    verb, other = rng.sample(VERBS, 2)
    noun = rng.choice(NOUNS)
    x, y = rng.sample(ARGUMENTS, 2)
    (op, sign), (last, end) = rng.choice(OPERATIONS)
    k, m = rng.sample(range(2, 20), 2)
    name, renamed = f"{verb}_{noun}", f"{other}_{noun}"

    def words(number: int) -> str:
        return f"{x} {op} {y} {last} {number}"

    def code(called: str, number: int, inside: str = "") -> str:
        return f"def {called}({x}, {y}):\n{inside}    return {x} {sign} {y} {end} {number}"

    turn = rng.choice(
        (
            f"Write a Python function {name} of {x} and {y} that returns {words(k)}.",
            f"In Python, define {name} with arguments {x} and {y}. It returns {words(k)}.",
            f"I need {words(k)} in Python, as a function {name} that takes {x} and {y}.",
        )
    )
    then = rng.choice(
        (
            FollowUp(f"Call it {renamed}.", code(renamed, k)),
            FollowUp(f"Make it {m} and not {k}.", code(name, m)),
            FollowUp("Add a docstring.", code(name, k, f'    """Return {words(k)}."""\n')),
            FollowUp(f"How do I call it with {k} and {m}?", f"print({name}({k}, {m}))"),
        )
    )
    return Talk((name, x, op, y, last, k), (turn, then.turn), (code(name, k), then.reply))


def stem(rng: Random) -> Talk:
    """Find the greatest of three; then the smallest, the order or a sum."""
    measure = rng.choice(MEASURES)
    things = rng.sample(measure.things, 3)
    numbers = rng.sample(range(2, 50), 3)
    unit, verb = measure.unit, measure.verb
    (a, b, c), (i, j, k) = things, numbers
    turn = rng.choice(
        (
            f"The {a} {verb} {i} {unit}, the {b} {j} {unit} and the {c} {k} {unit}. Which is the "
            f"{measure.most}?",
            f"Which is the {measure.most}: the {a} with {i} {unit}, the {b} with {j} or the {c} "
            f"with {k}?",
            f"A {a} of {i} {unit}, a {b} of {j} {unit}, a {c} of {k} {unit}: which of them is the "
            f"{measure.most}?",
        )
    )
    order = sorted(zip(numbers, things, strict=True))
    (least, small), _, (most, great) = order
    listed = ", ".join(f"{thing} ({number})" for number, thing in order)
    then = rng.choice(
        (
            FollowUp(
                f"And which is the {measure.least}?",
                f"The {small} is the {measure.least}: it {verb} {least} {unit}.",
            ),
            FollowUp(f"Put them in order, the {measure.least} first.", f"In {unit}: {listed}."),
            FollowUp(
                "What do the first two make together?",
                f"The {a} and the {b} {measure.base} {i} + {j} = {i + j} {unit} together.",
            ),
        )
    )
    reply = f"The {great} is the {measure.most}: it {verb} {most} {unit}."
    return Talk((unit, *sorted(order)), (turn, then.turn), (reply, then.reply))
