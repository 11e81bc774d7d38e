"""Perplexity of a text: which tokens each window scores, and the figure that comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from cllm_bench.contracts import ScoredText


class Window(NamedTuple):
    """What one pass sees and scores, as places in the sequence of tokens.

    Attributes:
        begin: The first token that the model sees.
        first: The first token that is scored: `begin < first`.
        end: Behind the last one.
    """

    begin: int
    first: int
    end: int


def windows(text: ScoredText, tokens: int) -> Iterator[Window]:
    """Yield the windows of a text of so many tokens that score any."""
    scored = 0  # everything before this place, or left out for good
    for begin in range(0, tokens, text.stride):
        end = begin + text.window
        if scored >= tokens or (end > tokens and text.remainder == "drop"):
            return
        window = Window(begin, max(scored, begin + 1), min(end, tokens))
        if window.first < window.end:
            yield window
        scored = window.end


def token_perplexity(nll: float, tokens: int) -> float | None:
    """Return e to the mean negative log-likelihood; None where no float holds it."""
    return _exponential(nll / tokens)


def word_perplexity(nll: float, tokens: int, tokens_per_word: float) -> float | None:
    """Return what a word costs on average: comparable between tokenizers.

    Args:
        nll: Of the tokens scored, in nats.
        tokens: How many these are.
        tokens_per_word: Of the whole text, whose words are what white space separates.
    """
    return _exponential(nll / tokens * tokens_per_word)


def _exponential(value: float) -> float | None:
    try:
        return math.exp(value)
    except OverflowError:
        return None
