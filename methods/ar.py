"""Autoregressive decoding: one token a pass. The baseline of every comparison."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cllm_bench.contracts import Exactness, Sampling, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Session


@dataclass(frozen=True)
class Autoregressive:
    """One token a pass.

    Attributes:
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "exact"
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
        from cllm_bench.decoding.sampling import Chooser

        session, choose = self.session, Chooser(sampling, prompt_ids.device)
        tokens = choose.tokens(session.prefill(prompt_ids), 0)
        for place in itertools.count(1):
            yield Step((tokens[0],))
            tokens = choose.tokens(session.forward(tokens), place)
            session.keep(1)
