"""The rows of a pass of lookahead decoding: the window's tokens, and what each row sees.

Source: Fu et al. 2024 (arXiv 2402.02057).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .ngram_pool import Ngram

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Window:
    """The lookahead branch: N - 1 levels of W columns, each level one Jacobi step older.

    Column i of level l stands l + i places behind the newest settled token, which is column 0 of
    level 0. At first only level 0 is there, and is wider: a pass that adds a level also moves the
    window on by one place, which takes a column off every level.

        W = 3, N = 4     1st pass           2nd pass         3rd pass       later passes
        level 0          last a1 a2 a3 a4   last a2 a3 a4    last a3 a4     last b4 b5
        level 1                             b2 b3 b4 b5      b3 b4 b5       c4 c5 c6
        level 2                                              c4 c5 c6       d5 d6 d7

    Args:
        ngram: Tokens in an n-gram, N.
        window: Columns once all levels are there, W.
        prompt: Its tokens fill the first level,
        seed: drawn with this one.
    """

    def __init__(self, ngram: int, window: int, prompt: Sequence[int], seed: int) -> None:
        first = random.Random(seed).choices(prompt, k=window + ngram - 2)
        self._levels = [first]
        self._most = ngram - 1

    @property
    def levels(self) -> int:
        """Levels that are there."""
        return len(self._levels)

    @property
    def size(self) -> int:
        """Rows that it takes."""
        return self.levels * len(self._levels[0])

    def rows(self, newest: int) -> list[int]:
        """Return the tokens of all rows, level by level, the newest settled one first."""
        self._levels[0][0] = newest
        return [token for level in self._levels for token in level]

    def advance(self, chosen: Sequence[int]) -> list[Ngram]:
        """Move on by one place; return the n-grams found, that of column 0 first.

        Args:
            chosen: What the model chooses behind every row.
        """
        levels = [*self._levels, list(chosen[-len(self._levels[0]) :])]
        if self.levels < self._most:
            self._levels = [level[1:] for level in levels]
            return []
        self._levels = levels[1:]
        return list(zip(*levels, strict=True))


class Layout(NamedTuple):
    """Where the rows of a pass stand and what they see.

    Attributes:
        depth: Places behind the newest settled token, which is row 0.
        mask: Which rows each row sees, itself included.
    """

    depth: Tensor  # (T,)
    mask: Tensor  # (T, T) bool


def layout(columns: int, levels: int, guesses: int, length: int, device: torch.device) -> Layout:
    """Lay out a window and, behind it, guesses.

    Row i of level l sees columns 0 … i of level 0 and column i of levels 1 … l. A guess sees the
    newest settled token and itself. So with 3 columns, 2 levels and a guess of 2 tokens:

                  last a1 a2   b0 b1 b2   g1 g2      depth
        last       x                                 0
        a1         x   x                             1
        a2         x   x  x                          2
        b0         x           x                     1
        b1         x   x          x                  2
        b2         x   x  x          x               3
        g1         x                      x          1
        g2         x                      x  x       2

    Args:
        columns: Of the window; 1 column of 1 level is the newest settled token alone.
        levels: Of the window.
        guesses: How many.
        length: Tokens of each guess.
        device: Of the tensors.
    """
    import torch

    size, guessed = columns * levels, guesses * length
    row = torch.arange(size, device=device)
    level, column = row // columns, row % columns
    base = (level == 0) & (column <= column[:, None])
    own = (column == column[:, None]) & (level <= level[:, None])
    row = torch.arange(guessed, device=device)
    guess, place = row // length, row % length
    mask = torch.zeros(size + guessed, size + guessed, dtype=torch.bool, device=device)
    mask[:size, :size] = base | own
    mask[size:, size:] = (guess == guess[:, None]) & (place <= place[:, None])
    mask[:, 0] = True
    return Layout(torch.cat([level + column, place + 1]), mask)
