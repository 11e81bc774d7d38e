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
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from cllm_bench.decoding.perplexity import token_perplexity, word_perplexity


class Stretch(NamedTuple):
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
    parts: tuple[Stretch, ...]
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
        return tuple(Stretch(_count(tokens), _finite(nll)) for tokens, nll in value)
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
