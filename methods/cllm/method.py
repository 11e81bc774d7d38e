"""CLLM: Jacobi decoding on a checkpoint that was trained for it (Kou et al., arXiv 2403.00835).

The paper's second way to decode such a checkpoint is lookahead decoding.

The checkpoint is another model than the target it came from. So its rows say two things: token for
token, CLLM-Jacobi against CLLM decoded autoregressively; and speed and quality against the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cllm_bench.contracts import Decoder, Exactness
from cllm_bench.errors import UserError

from ..ar import Autoregressive
from ..jacobi.method import Jacobi
from ..lookahead.method import Lookahead

if TYPE_CHECKING:
    from cllm_bench.engine.family import ModelFamily


NOTED = ("block_size", "refill", "guess")  # what a checkpoint notes of how it was trained


@dataclass(frozen=True)
class Cllm:
    """A consistency-trained checkpoint, decoded in parallel.

    Attributes:
        decoding: `jacobi`; `lookahead`: the method of that name with its own defaults (for other
            settings of it say `lookahead:checkpoint=cllm,…`); or `ar`: one token a pass.
        block_size: As for `jacobi`; none is what the checkpoint was trained with (it is noted in
            its `config.json` by the recipe `cllm`), or 16, as the paper's.
        refill: As for `jacobi`; none is what the checkpoint was trained with, or `block`, the
            paper's.
        guess: As for `jacobi`; none is what the checkpoint was trained with, or `prompt`.
        seed: As for `jacobi` or `lookahead`.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"

    decoding: Literal["jacobi", "ar", "lookahead"] = "jacobi"
    block_size: int | None = None
    refill: Literal["block", "sliding"] | None = None
    guess: Literal["prompt", "vocab", "pad", "last"] | None = None
    seed: int = 0
    checkpoint: str = "cllm"

    def __post_init__(self) -> None:
        self._jacobi({})  # refuses what does not fit
        if self.decoding == "lookahead":
            for name in NOTED:
                value = getattr(self, name)
                if value is not None:
                    raise UserError(f"{name}={value} is for decoding=jacobi, not for lookahead")

    def bind(self, family: ModelFamily) -> Decoder:
        """Open a session on the checkpoint."""
        if self.decoding == "ar":
            return Autoregressive(self.checkpoint).bind(family)
        if self.decoding == "lookahead":
            return Lookahead(seed=self.seed, checkpoint=self.checkpoint).bind(family)
        trained = getattr(family.model(self.checkpoint).config, "cllm", None) or {}
        return self._jacobi(trained).bind(family)

    def _jacobi(self, trained: Mapping[str, Any]) -> Jacobi:
        own = {name: getattr(self, name) for name in NOTED}
        noted = {name: trained[name] for name in own if name in trained}
        chosen = noted | {name: value for name, value in own.items() if value is not None}
        return Jacobi(seed=self.seed, checkpoint=self.checkpoint, **chosen)
