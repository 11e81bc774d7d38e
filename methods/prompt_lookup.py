"""Prompt lookup: guess that the text goes on as it did after the same words before.

Sources: Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding), whose defaults are taken here;
Yang et al. 2023 (arXiv 2304.04487).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

from .jacobi.method import count_matches

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Session


@dataclass(frozen=True)
class PromptLookup:
    """Guess what followed the newest tokens where prompt or reply had them before.

    Attributes:
        ngram: Newest tokens to look up; where they are new, one fewer, and so on
        min_ngram: down to so many.
        k: Tokens that are guessed for a pass.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"

    ngram: int = 3
    min_ngram: int = 1
    k: int = 10
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        for name in ("k", "min_ngram"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if self.ngram < self.min_ngram:
            raise UserError(f"ngram must be at least min_ngram, {self.min_ngram}, not {self.ngram}")

    def bind(self, family: ModelFamily) -> PromptLookupDecoder:
        """Open a session on the checkpoint."""
        return PromptLookupDecoder(self, family.session(self.checkpoint))


@dataclass
class PromptLookupDecoder:
    """Prompt lookup over one session.

    Attributes:
        settings: Of the method.
        session: On the model.
        matches: Length of the n-gram that was found, for each pass of the last generation; 0 where
            none was.
    """

    settings: PromptLookup
    session: Session
    matches: list[int] = field(default_factory=list)

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: at least one, at most k + 1."""
        from cllm_bench.decoding.sampling import Chooser

        session, choose = self.session, Chooser(sampling, prompt_ids.device)
        self.matches = matches = []
        prompt = prompt_ids.tolist()
        output = session.prefill(prompt_ids)
        text = Text(self.settings.min_ngram, self.settings.ngram)
        text.extend(prompt)
        settled = choose.tokens(output, 0)
        yield Step(tuple(settled))
        place = 1
        while True:
            text.extend(settled)
            # A guess past the model's last position cannot be tried, and need not be.
            length, guesses = text.guess(min(self.settings.k, max(0, session.room - 1)))
            block = [settled[-1], *guesses]
            predicted = choose.tokens(session.forward(block), place)
            settled = predicted[: count_matches(block, predicted) + 1]
            session.keep(len(settled))
            matches.append(length)
            yield Step(tuple(settled), drafted=len(guesses))
            place += len(settled)

    def counters(self) -> dict[str, float]:
        """Return the mechanism figures of the last generation.

        `match_rate` is the share of the passes for which a match was found; `match_length` the
        tokens that matched, on average over these, of which `ngram` are looked for at most.
        """
        found = [length for length in self.matches if length]
        if not self.matches:
            return {}
        figures = {"match_rate": len(found) / len(self.matches)}
        if found:
            figures["match_length"] = sum(found) / len(found)
        return figures


class Text:
    """A text that grows, and where each of its n-grams was last followed by something.

    Args:
        shortest: Length of the shortest n-grams that are indexed.
        longest: Of the longest.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._tokens: list[int] = []
        self._ends: dict[int, dict[tuple[int, ...], int]] = {
            length: {} for length in range(longest, shortest - 1, -1)
        }

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens, and index the n-grams that one of them follows."""
        start = len(self._tokens)
        self._tokens.extend(tokens)
        for length, ends in self._ends.items():
            first = max(start, length)  # the first new token that has such an n-gram before it
            before = self._tokens[first - length : -1]
            ngrams = zip(*(before[offset:] for offset in range(length)), strict=False)
            ends.update(zip(ngrams, range(first, len(self._tokens)), strict=False))

    def guess(self, count: int) -> tuple[int, list[int]]:
        """Return the length of the longest match, and so many tokens as followed it, or none.

        Of several matches the latest counts. Where what followed it is shorter, it is repeated: the
        text is then taken to be in a loop.
        """
        tokens = self._tokens
        for length, ends in self._ends.items():
            end = ends.get(tuple(tokens[-length:]))
            if end is not None:
                return length, list(islice(cycle(tokens[end : end + count]), count))
        return 0, []
