"""Whether a text of token ids has begun to repeat itself."""

from __future__ import annotations

from collections.abc import Sequence

RUN = 10  # identical tokens in a row
LOOP_REPEATS = 4  # the same n-gram so often in a row …
LOOP_TOKENS = 24  # … over at least so many tokens
LONGEST_LOOP = 32


def is_repetitive(token_ids: Sequence[int]) -> bool:
    """Tell whether some token runs on, or some n-gram loops, anywhere in the sequence."""
    return any(
        _longest_period(token_ids, period) >= _needed(period)
        for period in range(1, min(LONGEST_LOOP, len(token_ids) // 2) + 1)
    )


def _needed(period: int) -> int:
    return RUN if period == 1 else max(LOOP_TOKENS, LOOP_REPEATS * period)


def _longest_period(token_ids: Sequence[int], period: int) -> int:
    """Return the length of the longest stretch in which every token repeats the one before it."""
    longest = stretch = 0
    for index in range(period, len(token_ids)):
        stretch = stretch + 1 if token_ids[index] == token_ids[index - period] else 0
        longest = max(longest, stretch)
    return longest + period if longest else 0
