"""The project's own functions to write: in HumanEval's form, with none of its text.

A function belongs to one split for ever: the hash of its parts decides, whatever its constants,
names and wording. So each function of the test is put together as no training function is. Besides,
no training function does what a function of the test does, on a set of arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple

from cllm_bench.contracts import Split

from ..dataset import Problem
from .collections import balance, either, loop, question, selection
from .domains import CHARACTERS, LENGTHS, NUMBERS, WORDS
from .formulas import branches, pairs
from .parts import Argument, Constant, Draft, Kind, filled, indented
from .steps import formula, list_steps, text_steps

TEST_PROBLEMS = 200
# Each kind of function, and its weight in either split.
FAMILIES: Mapping[str, tuple[Callable[[Random], Draft], int]] = {
    "formula": (formula, 14),
    "branches": (branches, 12),
    "pairs": (pairs, 7),
    "list steps": (list_steps, 9),
    "text steps": (text_steps, 9),
    "numbers": (partial(selection, NUMBERS), 12),
    "numbers loop": (partial(loop, NUMBERS), 9),
    "numbers either": (partial(either, NUMBERS), 5),
    "numbers balance": (partial(balance, NUMBERS), 3),
    "numbers question": (partial(question, NUMBERS), 7),
    "characters": (partial(selection, CHARACTERS), 7),
    "characters loop": (partial(loop, CHARACTERS), 5),
    "characters question": (partial(question, CHARACTERS), 3),
    "words": (partial(selection, WORDS), 8),
    "words loop": (partial(loop, WORDS), 4),
    "words either": (partial(either, WORDS), 4),
    "words question": (partial(question, WORDS), 5),
    "lengths": (partial(selection, LENGTHS), 4),
    "lengths loop": (partial(loop, LENGTHS), 3),
}
# One set of parts in so many is kept for the test.
_TEST_EVERY = 8
_TESTS = 10
# Drafts of one family before another is chosen: few parts make few functions of the test.
_TRIES = 40
_LONGEST_RESULT = 60  # of an example, in characters

_VERBS = (
    "get",
    "find",
    "make",
    "build",
    "compute",
    "solve",
    "derive",
    "produce",
    "prepare",
    "work",
)
_NOUNS = ("result", "answer", "value", "output", "outcome", "data", "part", "final")
_VOCABULARY = (
    *("red", "Blue", "green", "Tree", "river", "stone", "Cat", "dog", "horse", "Bird", "night"),
    *("day", "Sun", "moon", "a", "in", "to", "the", "on", "UP", "run", "Walk", "seven", "ten"),
    *("noon", "level", "data", "tea", "Rain", "snow", "east", "west", "R2", "x7", "42", "ear"),
)


class Function(NamedTuple):
    """A draft made whole.

    Attributes:
        family: One of `FAMILIES`.
        parts: As in the draft.
        problem: Prompt, solution and tests.
        behaviour: Hash of what it does.
    """

    family: str
    parts: tuple[str, ...]
    problem: Problem
    behaviour: str


def problems(split: Split, count: int) -> tuple[Problem, ...]:
    """Return the first problems of a split; a shorter result is the beginning of a longer one."""
    return tuple(function.problem for function in functions(split, count))


def functions(split: Split, count: int) -> tuple[Function, ...]:
    """Return the first functions of a split.

    In the test no two functions do the same; in train one may come back with other names or in
    other words.
    """
    taken = {function.behaviour for function in _test_functions()} if split == "train" else set()
    seen: set[str] = set()
    found: list[Function] = []
    stream = _stream(split)
    while len(found) < count:
        function = next(stream)
        same = function.behaviour if split == "test" else function.problem.prompt
        if same not in seen and function.behaviour not in taken:
            seen.add(same)
            name = f"{split}-{len(found):05d}"
            found.append(function._replace(problem=function.problem._replace(id=name)))
    return tuple(found)


@cache
def _test_functions() -> tuple[Function, ...]:
    return functions("test", TEST_PROBLEMS)


def split_of(parts: Sequence[str]) -> Split:
    """Return the one split that functions with these parts belong to."""
    digest = sha256("/".join(parts).encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0 else "train"


def _stream(split: Split) -> Generator[Function, None, None]:
    """Yield sound functions of a split, without end and with repeats."""
    rng = Random(f"functions for {split}")
    names = tuple(FAMILIES)
    weights = [weight for _, weight in FAMILIES.values()]
    while True:
        (family,) = rng.choices(names, weights)
        for _ in range(_TRIES):
            draft = FAMILIES[family][0](rng)
            if split_of(draft.parts) != split:
                continue
            function = _finished(draft, family, rng, strict=split == "test")
            if function is not None:
                yield function
                break


def _finished(draft: Draft, family: str, rng: Random, *, strict: bool) -> Function | None:
    """Give a draft a name, examples and tests.

    Returns:
        None where it is not sound: where it fails on some arguments, or always returns the same;
        if strict, where it also has a part that no test tells it from a function without.
    """
    name = f"{rng.choice(_VERBS)}_{rng.choice(_NOUNS)}"
    signature = f"def {name}({', '.join(argument.name for argument in draft.arguments)}):\n"
    body = filled(draft.body, draft.constants)
    function = _compiled(draft.arguments, body)
    calls = [_arguments(draft, rng) for _ in range(_TESTS)]
    results = [_called(function, call) for call in calls]
    if any(isinstance(result, Exception) for result in results):
        return None
    if len({repr(result) for result in results}) < (2 if isinstance(results[0], bool) else 3):
        return None
    if strict and not _exact(draft, calls, results):
        return None
    examples = _examples(rng, name, calls, results)
    if not examples:
        return None
    prompt = f'{signature}    """{draft.says}\n\n{examples}    """\n'
    tests = "".join(
        f"    assert candidate({', '.join(map(repr, call))}) == {result!r}\n"
        for call, result in zip(calls, results, strict=True)
    )
    problem = Problem(
        "", prompt, name, indented(body), f"def check(candidate):\n{tests}", draft.says
    )
    return Function(family, draft.parts, problem, _behaviour(draft, function))


def _examples(
    rng: Random, name: str, calls: Sequence[tuple[Any, ...]], results: Sequence[Any]
) -> str:
    """Return one or two examples with different results, the shortest there are."""
    shown: dict[str, str] = {}
    for call, result in zip(calls, results, strict=True):
        text = f"    >>> {name}({', '.join(map(repr, call))})\n    {result!r}\n"
        if result not in (None, "", [], 0) and len(repr(result)) <= _LONGEST_RESULT:
            shown.setdefault(repr(result), text)
    best = sorted(shown.values(), key=len)
    return "".join(best[: rng.choice((1, 1, 2))])


def _exact(draft: Draft, calls: Sequence[tuple[Any, ...]], results: Sequence[Any]) -> bool:
    """Tell whether the tests see that a part is left out or a constant is another."""
    rivals = [filled(rival, draft.constants) for rival in draft.rivals]
    for mark, value in draft.constants.items():
        others = (value - 1, value + 1) if isinstance(value, int) else ("#",)
        rivals += [filled(draft.body, {**draft.constants, mark: other}) for other in others]
    for rival in rivals:
        function = _compiled(draft.arguments, rival)
        if all(
            repr(_called(function, call)) == repr(result)
            for call, result in zip(calls, results, strict=True)
        ):
            return False
    return True


def _compiled(arguments: Sequence[Argument], body: str) -> Callable[..., Any]:
    code = f"def f({', '.join(argument.name for argument in arguments)}):\n{indented(body)}\n"
    names: dict[str, Any] = {}
    exec(code, names)
    function: Callable[..., Any] = names["f"]
    return function


def _called(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as error:
        return error


def _behaviour(draft: Draft, function: Callable[..., Any]) -> str:
    """Return a hash of what a function returns, the same if its arguments change places."""
    kinds = tuple(argument.kind for argument in draft.arguments)
    orders = [(0, 1, 2)[: len(kinds)]]
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        orders.append((1, 0))
    told = [
        repr([_called(function, [call[place] for place in order]) for call in _probes(kinds)])
        for order in orders
    ]
    return sha256(repr((kinds, min(told))).encode()).hexdigest()


@cache
def _probes(kinds: tuple[Kind, ...]) -> tuple[tuple[Any, ...], ...]:
    rng = Random("arguments to tell functions apart")
    return tuple(tuple(_argument(kind, rng, ()) for kind in kinds) for _ in range(16))


def _arguments(draft: Draft, rng: Random) -> tuple[Any, ...]:
    near = tuple(draft.constants.values())
    return tuple(_argument(argument.kind, rng, near) for argument in draft.arguments)


def _argument(kind: Kind, rng: Random, near: Sequence[Constant]) -> Any:
    """Draw an argument, often close to one of the function's constants."""
    numbers = [each for each in near if isinstance(each, int)]

    def below(limit: int) -> int:
        return int(rng.random() * limit)  # several times faster than randrange

    def number() -> int:
        if numbers and rng.random() < 0.4:
            return numbers[below(len(numbers))] + below(3) - 1
        return below(25) - 9

    match kind:
        case "number":
            return number()
        case "count":
            return 1 + below(8)
        case "numbers":
            return [number() for _ in range(3 + below(5))]
        case "words":
            return rng.choices(_VOCABULARY, k=3 + below(3))
        case "text":
            return " ".join(rng.choices(_VOCABULARY, k=2 + below(3)))
