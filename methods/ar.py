"""Autoregressive decoding: one token a pass. The baseline of every comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cllm_bench.contracts import Exactness, Sampling, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.family import ModelFamily
    from cllm_bench.session import Session


@dataclass(frozen=True)
class Autoregressive:
    """One token a pass, greedily.

    Attributes:
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    baseline: ClassVar[bool] = True

    checkpoint: str = "target"

    def bind(self, family: ModelFamily) -> AutoregressiveDecoder:
        """Open a session on the checkpoint."""
        return AutoregressiveDecoder(family.session(self.checkpoint))


@dataclass
class AutoregressiveDecoder:
    """Autoregressive decoding over one session."""

    session: Session

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield one token a step."""
        session = self.session
        token = session.prefill(prompt_ids).logits.argmax(-1)  # (1,)
        while True:
            yield Step((int(token),))
            token = session.forward(token).logits.argmax(-1)
            session.keep(1)
