"""The perplexity of a text: which tokens are scored, what is stored of it, what tables say of it.

It belongs to the weights and not to a method, so a run measures it once for each checkpoint; the
measuring itself, which needs torch, is in `perplexity_pass.py`.

With `stride = window` this is the protocol of GPTQ (Frantar et al., 2023) and of those who follow
it: the whole text is one sequence of tokens, cut into windows that know nothing of each other; what
does not fill a last one is dropped, and so is the first token of each, which nothing precedes. With
a smaller stride it is that of transformers' guide to the perplexity of fixed-length models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from cllm_bench.contracts import ScoredText
from cllm_bench.report.statistics import Interval, bootstrap_interval


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


class Part(NamedTuple):
    """A stretch of the text as long as a window: what intervals draw."""

    tokens: int
    nll: float


@dataclass(frozen=True, slots=True)
class Perplexity:
    """One line of `perplexity.jsonl`: a text and a checkpoint.

    Attributes:
        key: The resume key: a hash of everything that decides the result.
        task: Label of the task.
        checkpoint: Role of the checkpoint.
        attempt: Which process wrote it.
        window: Tokens that the model saw at once.
        stride: From the beginning of one window to that of the next.
        remainder: What was done with the last window, if it was not full.
        windows: How many there were.
        text_tokens: Of the whole text.
        words: Of the whole text.
        tokens: Those scored.
        nll: Their negative log-likelihood, in nats.
        parts: The same by stretches of the text.
        seconds: That it took.
    """

    key: str
    task: str
    checkpoint: str
    attempt: int
    window: int
    stride: int
    remainder: str
    windows: int
    text_tokens: int
    words: int
    tokens: int
    nll: float
    parts: tuple[Part, ...]
    seconds: float

    @property
    def token_perplexity(self) -> float | None:
        """Of a token."""
        return token_perplexity(self.nll, self.tokens)

    @property
    def word_perplexity(self) -> float | None:
        """Of a word."""
        return word_perplexity(self.nll, self.tokens, self.text_tokens / self.words)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `parse_perplexity` reads, and the two perplexities."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return values | {
            "token_perplexity": self.token_perplexity,
            "word_perplexity": self.word_perplexity,
        }


_TEXTS = ("key", "task", "checkpoint", "remainder")
_NUMBERS = ("nll", "seconds")
_TOLD = ("window", "stride", "remainder", "windows", "text_tokens", "words", "tokens", "nll")


def parse_perplexity(value: Any) -> Perplexity:
    """Read one JSON object; unknown keys are ignored, as a later version may have written them.

    Raises:
        ValueError: A key is missing or its value is of the wrong kind; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    found: dict[str, Any] = {}
    for name in (spec.name for spec in fields(Perplexity)):
        if name not in value:
            raise ValueError(f"no '{name}'")
        try:
            found[name] = _parse(name, value[name])
        except (TypeError, ValueError):
            raise ValueError(f"'{name}' is {value[name]!r:.60}") from None
    return Perplexity(**found)


def _parse(name: str, value: Any) -> Any:
    if name == "parts":
        return tuple(Part(_count(tokens), _finite(nll)) for tokens, nll in value)
    if name in _TEXTS:
        if not isinstance(value, str):
            raise TypeError
        return value
    return _finite(value) if name in _NUMBERS else _count(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _finite(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError
    return float(value)


def figures(
    measured: Sequence[Perplexity], manifest: Mapping[str, Any], task: str, cell: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a summary says in place of graded replies, where the task has a text.

    Methods on the same checkpoint share its perplexity. The difference is that of the checkpoint
    from the baseline's, over the same stretches of text.
    """
    by_role = {each.checkpoint: each for each in measured if each.task == task}
    ours = by_role.get(cell["checkpoint"])
    if ours is None:
        return {"perplexity": None}
    seed = manifest["seed"]
    found = {
        "score": ours.token_perplexity,
        "score_ci": _pair(_interval([ours], seed)),
        "perplexity": {name: getattr(ours, name) for name in _TOLD}
        | {"token": ours.token_perplexity, "word": ours.word_perplexity, "seconds": ours.seconds},
    }
    roles = {each["method"]: each["checkpoint"] for each in manifest["cells"]}
    target = by_role.get(roles[manifest["baseline"]])
    if target is None or cell["method"] == manifest["baseline"]:
        return found
    mine, theirs = ours.token_perplexity, target.token_perplexity
    same = ours is target
    return found | {
        "score_difference": None if mine is None or theirs is None else mine - theirs,
        "score_difference_ci": None if same else _pair(_interval([ours, target], seed)),
    }


def _interval(measured: Sequence[Perplexity], seed: int) -> Interval | None:
    """Return the bootstrap interval of a perplexity, or of the first minus the second.

    The draws are of stretches of text, the same for both.
    """
    first = measured[0]
    shared = all(
        [p.tokens for p in each.parts] == [p.tokens for p in first.parts] for each in measured
    )
    if not shared or any(each.token_perplexity is None for each in measured):
        return None
    counts = np.array([part.tokens for part in first.parts], dtype=np.float64)
    sums = np.array([[part.nll for part in each.parts] for each in measured])

    def statistic(_: Any, weights: Any) -> Any:
        means = np.exp((weights @ sums.T) / (weights @ counts)[:, None])  # (R, 1 or 2)
        return means[:, 0] - means[:, 1] if len(measured) > 1 else means[:, 0]

    return bootstrap_interval([0.0] * len(counts), statistic, seed=seed)


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
