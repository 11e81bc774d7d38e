"""A training objective of your own: early tokens of a block count most, and the text is an anchor.

A token is accepted only if all before it are right, so a student may care for the early ones first.
The anchor is the cross-entropy of the answer's own tokens, read from a noisy state. Try it:

    cllm-bench train cllm:objective=early_first,steps=100 --model mini --task spider \
        --plugin examples/objective.py --output my-cllm
    cllm-bench run --model my-cllm --method cllm --task spider --limit 50

Settings of its own stand behind its name: "cllm:objective=early_first:decay=0.8;anchor=0.5".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cllm_bench import AnswerBlock, BlockStates, StateBatch, UserError
from cllm_bench.contracts import Divergence

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EarlyFirst:
    """The fixed point teaches, early tokens first, and its tokens are an anchor.

    Attributes:
        decay: Weight of a row against that of the row before it in the block.
        anchor: Weight of the cross-entropy of the fixed point's tokens.
        divergence: Of the student from the teacher; has the recipe's value, like all its settings.
    """

    decay: float = 0.9
    anchor: float = 0.1
    divergence: Divergence = "forward_kl"

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise UserError(f"early_first: decay must be above 0 and at most 1, not {self.decay}")

    def states(self, block: AnswerBlock) -> BlockStates:
        """Draw a chain of states; the block reads the fixed points of those before it."""
        return BlockStates(block.chain())

    def losses(self, batch: StateBatch) -> Mapping[str, Tensor]:
        """Return both terms: sums over rows, means over the copies."""
        from torch.nn.functional import cross_entropy

        distance, anchor = [], []
        for copy in range(batch.copies):
            pair = batch.pair(copy)  # the copy learns from the answer
            weights = pair.weights * self.decay**pair.depth
            distance.append((pair.divergence(self.divergence) * weights).sum())
            misses = cross_entropy(pair.student.float(), pair.tokens, reduction="none")
            anchor.append(self.anchor * (misses * weights).sum())
        return {
            "consistency_loss": sum(distance) / batch.copies,
            "anchor_loss": sum(anchor) / batch.copies,
        }
