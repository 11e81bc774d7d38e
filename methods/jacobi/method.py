"""Jacobi decoding: guess a block, correct all of it in parallel, keep what has settled.

Sources: Song et al. 2021 (arXiv 2002.03629); Santilli et al. 2023 (arXiv 2305.10427); as run by
Kou et al. 2024 (arXiv 2403.00835).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

from .mechanism import Iterate, mechanism

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Session


@dataclass(frozen=True)
class Jacobi:
    """Parallel fixed-point iteration over a block of guesses.

    Attributes:
        block_size: Tokens in a block, n, the settled one at its head included.
        refill: `block`: the window shrinks as tokens settle, and the next block starts when it has
            converged (the paper's). `sliding`: the window keeps its length.
        guess: Where fresh guesses come from: `prompt` (uniformly, with replacement, from prompt
            and output so far; the paper's), `vocab`, `pad`, or `last` (the newest token repeated).
        seed: Of the guesses; every prompt starts from it anew.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"

    block_size: int = 16
    refill: Literal["block", "sliding"] = "block"
    guess: Literal["prompt", "vocab", "pad", "last"] = "prompt"
    seed: int = 0
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise UserError(f"block_size must be at least 2, not {self.block_size}")

    def bind(self, family: ModelFamily) -> JacobiDecoder:
        """Open a session on the checkpoint."""
        session = family.session(self.checkpoint)
        return JacobiDecoder(self, session, family.vocabulary(self.checkpoint), family.pad_id)


@dataclass
class JacobiDecoder:
    """Jacobi decoding over one session.

    Attributes:
        observer: Called with every iterate as it happens, on the timed path.
        iterates: Those of the last generation.
    """

    settings: Jacobi
    session: Session
    vocabulary: int
    pad_id: int
    observer: Callable[[Iterate], None] | None = None
    iterates: list[Iterate] = field(default_factory=list)

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: at least one, at most the window's length."""
        from cllm_bench.decoding.sampling import Chooser

        session, size = self.session, self.settings.block_size
        choose = Chooser(sampling, prompt_ids.device)
        self.iterates = iterates = []
        guesses = Guesses(
            self.settings.guess,
            prompt_ids.tolist(),
            self.vocabulary,
            self.pad_id,
            self.settings.seed,
        )
        (first,) = choose.tokens(session.prefill(prompt_ids), 0)
        yield Step(guesses.settle((first,)))
        block = [first, *guesses.draw(size - 1)]
        start = 0
        while True:
            # A guess past the model's last position cannot be tried, and need not be.
            del block[max(1, session.room) :]
            predicted = choose.tokens(session.forward(block), start + 1)
            matches = count_matches(block, predicted)
            session.keep(matches + 1)
            settled = guesses.settle(tuple(predicted[: matches + 1]))
            iterates.append(Iterate(start, tuple(block), tuple(predicted), len(settled)))
            if self.observer is not None:
                self.observer(iterates[-1])
            yield Step(settled, drafted=len(block) - 1)
            start += len(settled)
            if self.settings.refill == "sliding":
                block = [*predicted[matches:], *guesses.draw(matches)][:size]
            elif len(settled) < len(block):
                block = predicted[matches:-1]
            else:
                block = [settled[-1], *guesses.draw(size - 1)]

    def counters(self) -> dict[str, float]:
        """Return the mechanism figures of the last generation, per block (the paper's Table 3)."""
        return mechanism(self.iterates, self.settings.block_size)


class Guesses:
    """Fresh guesses for the tail of a window."""

    def __init__(
        self, source: str, prompt: list[int], vocabulary: int, pad_id: int, seed: int
    ) -> None:
        self._source = source
        self._seen = prompt
        self._vocabulary = vocabulary
        self._pad_id = pad_id
        self._random = random.Random(seed)

    def settle(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Note settled tokens, which later guesses may repeat; return them."""
        self._seen.extend(tokens)
        return tokens

    def draw(self, count: int) -> list[int]:
        """Return so many guesses."""
        if self._source == "prompt":
            return self._random.choices(self._seen, k=count)
        if self._source == "vocab":
            return [self._random.randrange(self._vocabulary) for _ in range(count)]
        return [self._pad_id if self._source == "pad" else self._seen[-1]] * count


def count_matches(block: Sequence[int], predicted: Sequence[int]) -> int:
    """Count the leading guesses of a chain that the model confirms.

    Args:
        block: The newest settled token and the guesses behind it.
        predicted: What the model chooses behind each of them.
    """
    count = 0
    for guess, token in zip(block[1:], predicted, strict=False):
        if guess != token:
            break
        count += 1
    return count
