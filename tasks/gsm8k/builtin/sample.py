"""The project's own word problems with worked steps: in GSM8K's form, with none of its text.

The steps carry no `<<12+7=19>>` annotations: GSM8K has them for a calculator, and a model without
one would learn to write every sum twice.

A problem belongs to one split for ever: the hash of its numbers, sorted, decides. So no problem of
the test has the numbers of a training problem, whatever their stories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random

from cllm_bench.contracts import Split

from ...common.words import DAYS, MEN, POOLS, WOMEN, Story, Wording, plural
from .addition import SUMS
from .multiplication import PRODUCTS

TEST_PROBLEMS = 200
STORIES: Mapping[str, Story] = {**SUMS, **PRODUCTS}
# One set of numbers in so many is kept for the test.
_TEST_EVERY = 8
# Bounds of all results: no more than two digits, so that a small model can learn the arithmetic.
_LEAST, _GREATEST, _GREATEST_QUOTIENT = 2, 99, 12
_CHOICE = re.compile(r"\(([^()]*)\)")
_ARITHMETIC = re.compile(r"\[(\w) = (\w+) ([-+*/]) (\w+)\]")


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem.

    Attributes:
        id: Unique and stable within its split.
        question: The text.
        answer: The worked steps, and the result after `####`.
        story: What happens, such as `share`.
        numbers: Those that the story starts from, in its order.
    """

    id: str
    question: str
    answer: str
    story: str
    numbers: tuple[int, ...]


def problems(split: Split, count: int) -> tuple[Problem, ...]:
    """Return the first problems of a split.

    In the test no story comes twice with the same numbers; in train it may come back in other
    words. A shorter result is the beginning of a longer one.
    """
    chosen: list[Problem] = []
    seen: set[object] = set()
    rng = Random(f"word problems for {split}")
    while len(chosen) < count:
        problem = _draw(rng, split, f"{split}-{len(chosen):05d}")
        mark = (problem.story, problem.numbers) if split == "test" else problem.question
        if mark not in seen:
            seen.add(mark)
            chosen.append(problem)
    return tuple(chosen)


def split_of(numbers: Sequence[int]) -> Split:
    """Return the one split that a set of numbers belongs to."""
    digest = sha256(repr(sorted(numbers)).encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0 else "train"


def _draw(rng: Random, split: Split, name: str) -> Problem:
    """Tell a random story with numbers of a split."""
    title = rng.choice(tuple(STORIES))
    story = STORIES[title]
    wording = rng.choice(story.wordings)
    while True:
        numbers = tuple(rng.randint(*bounds) for bounds in story.ranges)
        values = _solve(wording, numbers)
        if values is not None and split_of(numbers) == split:
            break
    words = _words(rng, story) | {letter: str(value) for letter, value in values.items()}
    steps = [_written(step, words) for step in wording.steps]
    answer = "\n".join((*steps, f"#### {tuple(values.values())[-1]}"))
    question = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), wording.question)
    return Problem(name, question.format(**words), answer, title, numbers)


def _solve(wording: Wording, numbers: Sequence[int]) -> dict[str, int] | None:
    """Return all values by letter, the answer last; None where one is out of bounds."""
    values = dict(zip("abcd", numbers, strict=False))
    for target, left, sign, right in _arithmetic(wording):
        first = values[left]
        second = int(right) if right.isdigit() else values[right]
        found = _result(first, sign, second)
        if found is None:
            return None
        values[target] = found
    return values


def _result(first: int, sign: str, second: int) -> int | None:
    if sign == "/":
        quotient, rest = divmod(first, second)
        return quotient if not rest and _LEAST <= quotient <= _GREATEST_QUOTIENT else None
    found = {"+": first + second, "-": first - second, "*": first * second}[sign]
    return found if _LEAST <= found <= _GREATEST else None


@cache
def _arithmetic(wording: Wording) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(
        (target, left, sign, right)
        for step in wording.steps
        for target, left, sign, right in _ARITHMETIC.findall(step)
    )


def _written(step: str, words: Mapping[str, str]) -> str:
    def sum_of(match: re.Match[str]) -> str:
        target, left, sign, right = match.groups()
        return f"{words[left]} {sign} {words.get(right, right)} = {words[target]}"

    return _ARITHMETIC.sub(sum_of, step).format(**words)


def _words(rng: Random, story: Story) -> dict[str, str]:
    """Draw people, things and days."""
    people = rng.sample(WOMEN + MEN, 3)
    she, him = ("she", "her") if people[0] in WOMEN else ("he", "him")
    pool = POOLS[story.pool]
    things, others = rng.sample(pool.things, 2)
    box = rng.choice(pool.boxes)
    day, later = sorted(rng.sample(DAYS, 2), key=DAYS.index)
    return dict(zip("ABC", people, strict=True)) | {
        "she": she,
        "She": she.capitalize(),
        "him": him,
        "things": plural(things),
        "others": plural(others),
        "box": box,
        "boxes": plural(box),
        "day": day,
        "later": later,
    }
