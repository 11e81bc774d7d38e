"""The consistency objectives: which noisy states are learnt from, and from which teacher.

Sources: Kou et al. 2024 (arXiv 2403.00835), equations 3 to 5; the progressive form follows Jacobi
Forcing (arXiv 2512.14681).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cllm_bench.contracts import AnswerBlock, BlockStates, Divergence, StateBatch, StatePair
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Global:
    """Every state learns from the fixed point.

    Attributes:
        divergence: Of the student from the teacher.
    """

    divergence: Divergence = "forward_kl"

    def states(self, block: AnswerBlock) -> BlockStates:
        """Draw a chain; the block reads the fixed points of those before it."""
        return BlockStates(block.chain())

    def losses(self, batch: StateBatch) -> Mapping[str, Tensor]:
        """Return how far the copies are from the answer."""
        pairs = (batch.pair(copy) for copy in range(batch.copies))
        return {"consistency_loss": mean_divergence(pairs, self.divergence)}


@dataclass(frozen=True)
class Local:
    """Every state learns from its next one in the chain; the last ones only teach.

    Chains must begin all along the trajectories, those of states made online by `ahead`: a model
    that only pairs a guess with what becomes of it at once is never told where that ends.

    Attributes:
        divergence: Of the student from the teacher.
        iterations: States in a chain.
        ahead: Iterations, at most, that are behind the first state of an online chain.
    """

    divergence: Divergence = "forward_kl"
    iterations: int = 2
    ahead: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 2:
            raise UserError(
                "cllm: objective=local pairs each state with the next: give copies=2,iterations=2"
            )

    def states(self, block: AnswerBlock) -> BlockStates:
        """Draw a chain; the block reads the fixed points of those before it.

        Raises:
            UserError: All chains would begin with fresh guesses.
        """
        if not block.trajectory and not self.ahead:
            raise UserError(
                "cllm: objective=local learns from neighbours all along a trajectory, and online "
                "chains begin with fresh guesses: give ahead=8, say"
            )
        return BlockStates(block.chain())

    def losses(self, batch: StateBatch) -> Mapping[str, Tensor]:
        """Return how far the copies are from those one iteration later."""
        students = range(batch.copies - batch.chains)
        pairs = (batch.pair(copy, copy + batch.chains) for copy in students)
        return {"consistency_loss": mean_divergence(pairs, self.divergence)}


@dataclass(frozen=True)
class Progressive:
    """As `global`, but the blocks of a window read each other's noise, the later the noisier.

    Attributes:
        divergence: Of the student from the teacher.
        window: Blocks that share a noisy context.
        form: How blocks are trained.
    """

    divergence: Divergence = "forward_kl"
    window: int = 4
    form: Literal["packed", "single"] = "packed"

    def __post_init__(self) -> None:
        if self.form == "single":
            raise UserError("cllm: objective=progressive needs form=packed")

    def states(self, block: AnswerBlock) -> BlockStates:
        """Draw a chain whose unconverged share rises along the window: from none to all."""
        share = block.turn / (self.window - 1) if self.window > 1 else 1.0
        return BlockStates(block.chain(unconverged=share), joined=block.turn > 0)

    def losses(self, batch: StateBatch) -> Mapping[str, Tensor]:
        """Return how far the copies are from the answer."""
        pairs = (batch.pair(copy) for copy in range(batch.copies))
        return {"consistency_loss": mean_divergence(pairs, self.divergence)}


def mean_divergence(pairs: Iterable[StatePair], kind: Divergence) -> Tensor:  # ()
    """Return the mean over the pairs of their summed divergences, in nats."""
    sums = [(pair.divergence(kind) * pair.weights).sum() for pair in pairs]
    return sum(sums[1:], sums[0]) / len(sums)
