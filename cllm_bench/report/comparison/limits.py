"""Limits that a comparison must keep, such as `slower:3%`: whether each was broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.report.comparison.figures import Answer, Check, Comparison, Holds, Pair

Kind = Literal["slower", "faster", "score"]
_KINDS = ("slower", "faster", "score")
_WORST_FIRST: tuple[Holds, ...] = ("holds", "cannot tell", "does not hold")


class Limit(NamedTuple):
    """What must not be.

    Attributes:
        kind: `slower` or `faster`, of speed, or `score`, of points that are lost.
        amount: By how much: a fraction of the speed, or points.
        text: As the user gave it.
    """

    kind: Kind
    amount: float
    text: str


def parse_limit(text: str) -> Limit:
    """Parse `slower:PERCENT%`, `faster:PERCENT%` or `score:POINTS`.

    Raises:
        UserError: It is none of these.
    """
    kind, _, amount = text.partition(":")
    if kind not in _KINDS:
        raise UserError(
            f"--fail-if {text}: no condition named '{kind}'; {did_you_mean(kind, _KINDS)}"
        )
    number = amount.removesuffix("%")
    usual = "score:1" if kind == "score" else f"{kind}:3%"
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    relative = kind != "score"
    if amount.endswith("%") != relative or not 0 <= value < (100 if kind == "slower" else 1e9):
        what = "a percentage" if relative else "a number of points"
        raise UserError(f"--fail-if {text}: '{amount}' is not {what}, as in {usual}")
    return Limit(cast(Kind, kind), value / 100 if relative else value, text)


def check_limits(comparison: Comparison, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """Return whether each limit is broken.

    A condition holds where the whole interval lies beyond the limit, and beyond the noise floor; it
    does not hold where the interval ends within the limit; else nobody can tell.
    """
    return tuple(_check(comparison, limit) for limit in limits)


def _check(comparison: Comparison, limit: Limit) -> Check:
    ask = _ask_score if limit.kind == "score" else _ask_speed
    answers = [found for pair in comparison.pairs if (found := ask(comparison, pair, limit))]
    outcomes = {each.outcome for each in answers}
    worst: Holds = next((each for each in _WORST_FIRST if each in outcomes), "cannot tell")
    return Check(limit=limit.text, outcome=worst, pairs=tuple(answers))


def _ask_speed(comparison: Comparison, pair: Pair, limit: Limit) -> Answer | None:
    found = comparison.headline(pair)
    if comparison.machines and pair.method == comparison.baseline:
        return None  # across machines speedups count, and it has none
    interval = found.interval
    if interval is None:
        return _unmeasured(pair, found.reason)
    if limit.kind == "slower":
        bound = 1 - limit.amount
        broken, kept = interval.high < bound, interval.low >= bound
    else:
        bound = 1 + limit.amount
        broken, kept = interval.low > bound, interval.high <= bound
    if broken and found.word == limit.kind:
        return _answer(pair, "holds")
    if kept:
        return _answer(pair, "does not hold")
    reason = "the interval is within the noise floor" if broken else "the interval holds the limit"
    return _answer(pair, "cannot tell", reason)


def _ask_score(_: Comparison, pair: Pair, limit: Limit) -> Answer | None:
    found = pair.score
    if found is None:
        return None
    if found.difference is None:
        return _unmeasured(pair, found.reason)
    if found.identical:
        return _answer(pair, "does not hold")
    if found.interval is None:
        return _unmeasured(pair, "fewer than 5 common questions have a score")
    scale = 100 if found.best == 1 else 1  # points of a fraction are per cent
    gains = [scale * bound for bound in found.interval]
    if found.best == 0:  # lower is better
        gains = [-bound for bound in reversed(gains)]
    low, high = gains
    if high < -limit.amount:
        return _answer(pair, "holds")
    if low >= -limit.amount:
        return _answer(pair, "does not hold")
    return _answer(pair, "cannot tell", "the interval holds the limit")


def _answer(pair: Pair, outcome: Holds, reason: str | None = None) -> Answer:
    return Answer(task=pair.task, method=pair.method, outcome=outcome, reason=reason)


def _unmeasured(pair: Pair, reason: str | None) -> Answer:
    return Answer(
        task=pair.task, method=pair.method, outcome="cannot tell", measured=False, reason=reason
    )
