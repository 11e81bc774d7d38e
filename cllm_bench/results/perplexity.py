"""The perplexity of a text: which tokens are scored, what is stored of it, what tables say of it.

It belongs to the weights and not to a method, so a run measures it once for each checkpoint; the
measuring itself, which needs torch, is in `measurement/perplexity.py`.

With `stride = window` this is the protocol of GPTQ (Frantar et al., 2023) and of those who follow
it: the whole text is one sequence of tokens, cut into windows that know nothing of each other; what
does not fill a last one is dropped, and so is the first token of each, which nothing precedes. With
a smaller stride it is that of transformers' guide to the perplexity of fixed-length models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import NonNegativeInt

from cllm_bench.decoding.perplexity import token_perplexity, word_perplexity
from cllm_bench.results.schema import to_json


class Stretch(NamedTuple):
    """A stretch of the text as long as a window: what intervals draw."""

    tokens: NonNegativeInt
    nll: float


@dataclass(frozen=True, slots=True)
class Perplexity:
    """One line of `perplexity.jsonl`: a text and a checkpoint.

    Attributes:
        key: Resume key: a hash of everything that decides the result.
        task: Label of the task.
        checkpoint: Role of the checkpoint.
        attempt: Which process wrote it: 0 for the first, 1 for the first resume, and so on.
        window: Tokens that the model saw at once.
        stride: Tokens from the beginning of one window to that of the next.
        remainder: What was done with the last window, if it was not full: `drop` or `score`.
        windows: Number of windows.
        text_tokens: Tokens of the whole text.
        words: Words of the whole text.
        tokens: Tokens that were scored.
        nll: Negative log-likelihood of these, in nats.
        parts: Scored tokens and their negative log-likelihood, for each stretch of the text.
        seconds: Seconds that the measurement took.
    """

    key: str
    task: str
    checkpoint: str
    attempt: NonNegativeInt
    window: NonNegativeInt
    stride: NonNegativeInt
    remainder: str
    windows: NonNegativeInt
    text_tokens: NonNegativeInt
    words: NonNegativeInt
    tokens: NonNegativeInt
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
        """Return the JSON object that is stored, which holds the two perplexities as well."""
        return to_json(self) | {
            "token_perplexity": self.token_perplexity,
            "word_perplexity": self.word_perplexity,
        }
