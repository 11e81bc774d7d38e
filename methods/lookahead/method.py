"""Lookahead decoding: Jacobi iterates yield n-grams, and the same pass checks those that fit.

Source: Fu et al. 2024 (arXiv 2402.02057). N, W and G are the authors' for a model of 7B. Unlike
theirs the prompt's n-grams are guessed too by default: that costs no pass and a few rows, and gives
1.78 tokens per pass in place of 1.58 where it was measured (`mini` on its built-in Spider
questions; N = 3 gives 1.76 with half the rows).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

from ..jacobi.method import count_matches
from .ngram_pool import Ngram, NgramPool
from .window import Layout, Window, layout

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Session


@dataclass(frozen=True)
class Lookahead:
    """A window of Jacobi iterates yields n-grams, and the same pass checks those that fit.

    Attributes:
        ngram: Tokens in an n-gram, N: a pass settles at most so many.
        window: Columns of the window, W: as many n-grams are found by a pass.
        guesses: N-grams kept for each first token, G: at most so many are checked by a pass.
        pool_from_prompt: Whether the prompt's n-grams are guesses too; the reply's always are.
        seed: Of the tokens that fill the window; every prompt starts from it anew.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"

    ngram: int = 5
    window: int = 7
    guesses: int = 7
    pool_from_prompt: bool = True
    seed: int = 0
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        for name, least in (("ngram", 2), ("window", 1), ("guesses", 0)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"{name} must be at least {least}, not {value}")

    def bind(self, family: ModelFamily) -> LookaheadDecoder:
        """Open a session on the checkpoint."""
        return LookaheadDecoder(self, family.session(self.checkpoint))


class Rows(NamedTuple):
    """The rows of one pass.

    Attributes:
        window: Tokens of the lookahead branch, level by level, the newest settled one first.
        levels: Of the window.
        guesses: N-grams of the verification branch, each without its first token.
    """

    window: list[int]
    levels: int
    guesses: list[Ngram]


class WindowPass(NamedTuple):
    """What one pass did.

    Attributes:
        rows: Tokens that went in.
        guesses: N-grams checked.
        accepted: Tokens accepted of the best of them.
    """

    rows: int
    guesses: int
    accepted: int


class Branches:
    """The two branches of a reply: a window that finds n-grams, and guesses from the pool.

    Args:
        settings: Of the method.
        prompt: What is continued.
    """

    def __init__(self, settings: Lookahead, prompt: Sequence[int]) -> None:
        ngram = settings.ngram
        self._pool = NgramPool(ngram, settings.guesses)
        self._window: Window | None = Window(ngram, settings.window, prompt, settings.seed)
        self._length = ngram - 1  # of a guess
        self._most = settings.guesses
        if settings.pool_from_prompt:
            self._pool.read(prompt)

    def rows(self, newest: int, room: int) -> Rows:
        """Return what to try behind the newest settled token.

        Args:
            newest: That token.
            room: Rows that a pass may have. Where it ends the window goes first: what it would
                find could hardly be used any more.
        """
        window = self._window
        if window is not None and room < window.size + self._most * self._length:
            window = self._window = None
        own = [newest] if window is None else window.rows(newest)
        guesses = self._pool.guesses(newest, (room - len(own)) // self._length)
        return Rows(own, 1 if window is None else window.levels, guesses)

    def advance(self, chosen: Sequence[int]) -> None:
        """Store the n-grams that a pass found, and move the window on.

        Args:
            chosen: What the model chooses behind the rows of the window.
        """
        if self._window is not None:
            for found in self._window.advance(chosen):
                self._pool.store(found)

    def settle(self, tokens: Sequence[int]) -> None:
        """Store the n-grams that end in newly settled tokens."""
        self._pool.read(tokens)


@dataclass
class LookaheadDecoder:
    """Lookahead decoding over one session.

    Attributes:
        settings: Of the method.
        session: On the model.
        passes: Those of the last generation.
    """

    settings: Lookahead
    session: Session
    passes: list[WindowPass] = field(default_factory=list)
    _layouts: dict[tuple[int, int, int], Layout] = field(default_factory=dict)
    _kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: at least one, at most N."""
        from cllm_bench.decoding.sampling import Chooser

        session, choose = self.session, Chooser(sampling, prompt_ids.device)
        self.passes = passes = []
        branches = Branches(self.settings, prompt_ids.tolist())
        settled = choose.tokens(session.prefill(prompt_ids), 0)
        yield Step(tuple(settled))
        place = 1
        while True:
            branches.settle(settled)
            rows = branches.rows(settled[-1], session.room)
            ids = [*rows.window, *itertools.chain.from_iterable(rows.guesses)]
            where = self._layout(rows)
            output = session.forward(ids, depth=where.depth, mask=where.mask)
            chosen = choose.tokens(output, place, where.depth)
            first, settled = longest(rows, chosen)
            self._keep(first, len(settled) - 1)
            passes.append(WindowPass(len(ids), len(rows.guesses), len(settled) - 1))
            yield Step(tuple(settled), drafted=len(ids) - len(rows.window))
            branches.advance(chosen[: len(rows.window)])
            place += len(settled)

    def _layout(self, rows: Rows) -> Layout:
        key = len(rows.window) // rows.levels, rows.levels, len(rows.guesses)
        if key not in self._layouts:
            self._layouts[key] = layout(*key, self.settings.ngram - 1, self.session.device)
        return self._layouts[key]

    def _keep(self, first: int, accepted: int) -> None:
        """Commit the newest settled token and, from row `first` on, the accepted tokens."""
        import torch

        if not accepted:
            self.session.keep(1)
            return
        key = first, accepted
        if key not in self._kept:
            kept = [0, *range(first, first + accepted)]
            self._kept[key] = torch.tensor(kept, device=self.session.device)
        self.session.keep(self._kept[key])

    def counters(self) -> dict[str, float]:
        """Return the mechanism figures of the last generation.

        `guesses_per_pass` are n-grams; `guess_hit_rate` is the share of the passes with guesses in
        which one was right, at least in its first token.
        """
        passes = self.passes
        if not passes:
            return {}
        figures = {
            "rows_per_pass": sum(each.rows for each in passes) / len(passes),
            "guesses_per_pass": sum(each.guesses for each in passes) / len(passes),
        }
        guessing = [each for each in passes if each.guesses]
        if guessing:
            hits = sum(each.accepted > 0 for each in guessing)
            figures["guess_hit_rate"] = hits / len(guessing)
        return figures


def longest(rows: Rows, chosen: Sequence[int]) -> tuple[int, list[int]]:
    """Return the first row of the guess of which the model confirms most, and what is settled.

    Settled are the tokens that it confirms, and the model's own choice behind them.

    Args:
        rows: Of the pass.
        chosen: What the model chooses behind each of them.
    """
    first = row = len(rows.window)
    settled = [chosen[0]]
    for guess in rows.guesses:
        predicted = [chosen[0], *chosen[row : row + len(guess)]]
        matches = count_matches([rows.window[0], *guess], predicted)
        if matches >= len(settled):
            first, settled = row, predicted[: matches + 1]
        row += len(guess)
    return first, settled
