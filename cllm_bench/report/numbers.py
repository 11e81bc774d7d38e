"""Numbers as tables show them: never more digits than the interval supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

ABSENT = "–"  # not measured
Bounds = Sequence[float] | None


def decimals(bounds: Bounds, without: int) -> int:
    """Return how many decimals a value deserves, at most two or what keeps the bounds apart.

    Half the interval keeps one significant digit, or two where they are below 36 (the rule of the
    Particle Data Group): one digit of 1.4 would be off by a third.

    Args:
        bounds: The interval, if there is one.
        without: The answer if there is none.
    """
    if bounds is None:
        return without
    half = (bounds[1] - bounds[0]) / 2
    if half <= 0:
        return 2
    most = 2 if half >= 0.005 else 3
    return min(most, max(0, math.ceil(-math.log10(half / 3.55))))


def ratio(value: float | None, bounds: Bounds, *, show: bool = True) -> str:
    """Return a speedup, such as `2.41× [2.33, 2.49]`, or without its interval."""
    if value is None:
        return ABSENT
    parts = ratio_parts(value, bounds)
    return "".join(parts) if show else parts.value


class Parts(NamedTuple):
    """A figure and its interval as text; the latter is empty or begins with a space."""

    value: str
    interval: str


def ratio_parts(value: float, bounds: Bounds) -> Parts:
    """Return a speedup and its interval, such as `2.41×` and ` [2.33, 2.49]`."""
    places = decimals(bounds, without=1)
    return Parts(f"{fixed(value, places)}×", _interval(bounds, places))


def score(value: float | None, bounds: Bounds, best: float, *, show: bool = True) -> str:
    """Return a score, or without its interval; a fraction, whose best is 1, in per cent."""
    if value is None:
        return ABSENT
    scale, unit, without = (100, "%", 0) if best == 1 else (1, "", 1)
    bounds = bounds and [scale * bound for bound in bounds]
    places = decimals(bounds, without)
    return f"{fixed(scale * value, places)}{unit}{_interval(bounds, places) if show else ''}"


def difference(value: float | None, bounds: Bounds, best: float) -> str:
    """Return a difference of scores, with its sign; of fractions, in percentage points."""
    if value is None:
        return ABSENT
    return "".join(difference_parts(value, bounds, best)) + (" pp" if best == 1 else "")


def difference_parts(value: float, bounds: Bounds, best: float) -> Parts:
    """Return a difference of scores and its interval without a unit; fractions in per cent."""
    scale = 100 if best == 1 else 1
    bounds = bounds and [scale * bound for bound in bounds]
    places = decimals(bounds, without=1)
    signed = fixed(scale * value, places, sign=True)
    return Parts(signed, _interval(bounds, places, sign=True))


def share(value: float | None) -> str:
    """Return a fraction in per cent; only all is 100%, and only none is 0%."""
    if value is None:
        return ABSENT
    if value in (0, 1):
        return f"{100 * value:.0f}%"
    places = f"{100 * value:.1f}"
    return {"100.0": ">99.9%", "0.0": "<0.1%"}.get(places, f"{places}%")


def expected(number: float) -> str:
    """Return a number that is expected of a count, with a decimal where it is small."""
    return fixed(number, 0 if number >= 10 else 1)


def significant(value: float | None, digits: int = 3) -> str:
    """Return a value rounded to a number of significant digits."""
    if value is None:
        return ABSENT
    if not value:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def figure(value: float | None) -> str:
    """Return a figure of unknown size: two decimals, or three digits where two do not fit it."""
    if value is None or (value and not 0.1 <= abs(value) < 100):
        return significant(value)
    return fixed(value, 2)


def plain(value: float | None, places: int = 2) -> str:
    """Return a value with a fixed number of decimals, or the sign for one not measured."""
    return ABSENT if value is None else fixed(value, places)


def memory(size: float | None) -> str:
    """Return bytes in MiB or GiB."""
    if size is None:
        return ABSENT
    return (
        f"{significant(size / 2**30)} GiB" if size >= 2**30 else f"{significant(size / 2**20)} MiB"
    )


def count(number: float | None) -> str:
    """Return a number of parameters, such as `6.74B`."""
    if number is None:
        return ABSENT
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{significant(number / limit)}{unit}"
    return f"{number:.0f}"


def fixed(value: float, places: int, *, sign: bool = False) -> str:
    """Return a value with a fixed number of decimals, a true minus and no negative zero."""
    rounded = round(value, places) + 0.0
    text = f"{rounded:+.{places}f}" if sign and rounded else f"{rounded:.{places}f}"
    return text.replace("-", "−")


def _interval(bounds: Bounds, places: int, *, sign: bool = False) -> str:
    if bounds is None:
        return ""
    return f" [{', '.join(fixed(bound, places, sign=sign) for bound in bounds)}]"
