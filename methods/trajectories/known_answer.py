"""Greedy decoding along an answer that is expected: what a model answers, found fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cllm_bench.contracts import Sampling, Step

from ..jacobi.method import count_matches

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.session import Session

WIDEST = 64  # guesses of a pass, at most: most answers fit in one


@dataclass(frozen=True)
class ReferenceDecoder:
    """Guesses that an answer goes on as its reference does, token for token.

    A right reference settles a whole pass of guesses; a wrong one costs passes, never tokens. Each
    pass guesses twice as much as the one before it settled: rows that do not settle cost time, too.

    Attributes:
        session: On the model.
        reference: Ids of the known answer.
    """

    session: Session
    reference: Sequence[int]

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: at least one."""
        from cllm_bench.decoding.sampling import Chooser

        session, choose = self.session, Chooser(sampling, prompt_ids.device)
        settled = choose.tokens(session.prefill(prompt_ids), 0)
        yield Step(tuple(settled))
        place, width = 1, WIDEST
        while True:
            # A guess past the model's last position cannot be tried, and need not be.
            guesses = self.reference[place : place + min(width, max(0, session.room - 1))]
            block = [settled[-1], *guesses]
            predicted = choose.tokens(session.forward(block), place)
            settled = predicted[: count_matches(block, predicted) + 1]
            session.keep(len(settled))
            yield Step(tuple(settled), drafted=len(guesses))
            place += len(settled)
            width = min(WIDEST, 2 * len(settled))
