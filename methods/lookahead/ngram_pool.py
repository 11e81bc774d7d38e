"""The n-grams that lookahead decoding guesses from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

Ngram = tuple[int, ...]


class NgramPool:
    """N-grams by their first token, the most recently stored ones of each.

    Args:
        ngram: Tokens in an n-gram, N.
        guesses: N-grams kept for each first token, G; one more pushes the oldest out.
    """

    def __init__(self, ngram: int, guesses: int) -> None:
        self._ngram = ngram
        self._guesses = guesses
        self._behind: dict[int, dict[Ngram, None]] = {}  # oldest first
        self._newest: deque[int] = deque(maxlen=ngram)

    def store(self, found: Ngram) -> None:
        """Store an n-gram, or note that it was seen again."""
        behind = self._behind.setdefault(found[0], {})
        behind.pop(found[1:], None)
        behind[found[1:]] = None
        if len(behind) > self._guesses:
            del behind[next(iter(behind))]

    def read(self, tokens: Iterable[int]) -> None:
        """Store the n-grams of a text of which these are the next tokens."""
        for token in tokens:
            self._newest.append(token)
            if len(self._newest) == self._ngram:
                self.store(tuple(self._newest))

    def guesses(self, token: int, limit: int) -> list[Ngram]:
        """Return what may follow a token: N - 1 tokens each, at most so many, newest first."""
        return list(reversed(self._behind.get(token, ())))[:limit]
