"""CLLM: Jacobi decoding on a checkpoint that was trained for it (Kou et al., arXiv 2403.00835).

The checkpoint is another model than the target it came from. So its rows say two things: token for
token, CLLM-Jacobi against CLLM decoded autoregressively; and speed and quality against the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cllm_bench.contracts import Decoder, Exactness

from .ar import Autoregressive
from .jacobi import Jacobi

if TYPE_CHECKING:
    from cllm_bench.family import ModelFamily


@dataclass(frozen=True)
class Cllm:
    """A consistency-trained checkpoint, decoded in parallel, greedily.

    Attributes:
        decoding: `jacobi`, or `ar`: one token a pass.
        block_size: As for `jacobi`; best the one that the checkpoint was trained with.
        refill: As for `jacobi`.
        guess: As for `jacobi`.
        seed: As for `jacobi`.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"

    decoding: Literal["jacobi", "ar"] = "jacobi"
    block_size: int = 16
    refill: Literal["block", "sliding"] = "block"
    guess: Literal["prompt", "vocab", "pad", "last"] = "prompt"
    seed: int = 0
    checkpoint: str = "cllm"

    def __post_init__(self) -> None:
        self._jacobi()  # refuses what does not fit

    def bind(self, family: ModelFamily) -> Decoder:
        """Open a session on the checkpoint."""
        if self.decoding == "ar":
            return Autoregressive(self.checkpoint).bind(family)
        return self._jacobi().bind(family)

    def _jacobi(self) -> Jacobi:
        return Jacobi(self.block_size, self.refill, self.guess, self.seed, self.checkpoint)
