"""Speculative decoding: a smaller model drafts tokens, the target checks them all in one pass.

Sources: Leviathan et al. 2023 (arXiv 2211.17192); Chen et al. 2023 (arXiv 2302.01318).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

from .acceptance import Acceptance, Matching, Rejection

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Program, Session


@dataclass(frozen=True)
class Speculative:
    """A draft model guesses ahead, the target checks all guesses in one pass.

    Attributes:
        k: Tokens that the draft guesses for a pass; with `adaptive`, at most.
        adaptive: Draft one token more than the last pass accepted, at most k. Every prompt begins
            with k.
        acceptance: When sampling. `rejection`: keep a guess with probability min(1, p/q), else draw
            from what p has over q: the target's distribution. `coupled`: both models choose with
            the same noise, and equal choices are kept: the reply of autoregressive sampling.
        draft: The role in the family that drafts.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"

    k: int = 4
    adaptive: bool = False
    acceptance: Literal["rejection", "coupled"] = "rejection"
    draft: str = "draft"
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k must be at least 1, not {self.k}")

    @property
    def sampled(self) -> Exactness:
        """What sampled replies are."""
        return "exact" if self.acceptance == "coupled" else "distribution"

    @property
    def extra_roles(self) -> tuple[str, ...]:
        """The draft."""
        return (self.draft,)

    def bind(self, family: ModelFamily) -> SpeculativeDecoder:
        """Open a session on either model; the family refuses a draft of another tokenizer."""
        return SpeculativeDecoder(
            self,
            family.session(self.checkpoint),
            family.session(self.draft),
            family.vocabulary(self.checkpoint),
            family.parameters(self.draft),
        )


@dataclass
class SpeculativeDecoder:
    """Speculative decoding over two sessions."""

    settings: Speculative
    target: Session
    draft: Session
    vocabulary: int  # of the target: a draft may have fewer embeddings, or more
    extra_parameters: int
    _programs: dict[tuple[int, int], Program] = field(default_factory=dict)

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: the accepted guesses, and one more."""
        target, draft = self.target, self.draft
        accept = self._acceptance(sampling, prompt_ids)
        tokens = accept.settle(target.prefill(prompt_ids), prompt_ids[:0], 0)
        _rewind(draft, 0)
        if prompt_ids.numel() <= draft.room:  # else nothing will be drafted
            draft.prefill(prompt_ids)
        yield Step(tokens)
        place, ahead = 1, self.settings.k
        while True:
            count = min(ahead, target.room - 1, draft.length + draft.room - target.length)
            # Of guesses that were all accepted the draft has not seen its own last one.
            behind = tokens[draft.length - target.length - 1 :]
            block = self._drafted(accept, behind, count, place)
            tokens = accept.settle(target.forward(block), block[1:], place)
            target.keep(len(tokens))
            _rewind(draft, min(draft.length, target.length))
            yield Step(tokens, drafted=len(block) - 1)
            place += len(tokens)
            if self.settings.adaptive:
                ahead = min(self.settings.k, len(tokens))

    def _drafted(
        self, accept: Acceptance, behind: Sequence[int], count: int, place: int
    ) -> Tensor:  # (1 + count,)
        """Return the newest token and so many guesses on the device; nothing waits for them.

        Args:
            accept: Chooses them.
            behind: What the draft has not seen yet, the newest token last.
            count: How many, at most.
            place: Of the first one.
        """
        if count < 1:
            return self.draft.upload(behind[-1:])
        if not accept.greedy:
            return self._draft(partial(accept.draft, place), count, self.draft.upload(behind))
        key = len(behind), count
        if key not in self._programs:
            body = partial(self._draft, _likeliest, count)
            rows = len(behind) + count - 1
            self._programs[key] = self.draft.program(body, rows=rows, results=1 + count)
        return self._programs[key](behind)

    def _draft(
        self,
        choose: Callable[[int, Tensor], Tensor],
        count: int,
        behind: Tensor,  # (1 or 2,)
    ) -> Tensor:  # (1 + count,)
        import torch

        block = [behind[-1:]]
        for ahead in range(count):
            logits = self.draft.forward(behind).logits[-1:]
            self.draft.keep(behind.numel())
            behind = choose(ahead, _fitted(logits, self.vocabulary))
            block.append(behind)
        return torch.cat(block)

    def _acceptance(self, sampling: Sampling, prompt_ids: Tensor) -> Acceptance:
        from cllm_bench.decoding.sampling import Chooser

        if sampling.temperature == 0 or self.settings.acceptance == "coupled":
            return Matching(Chooser(sampling, prompt_ids.device))
        return Rejection(sampling, prompt_ids.device)


def _likeliest(
    _: int,
    logits: Tensor,  # (1, V)
) -> Tensor:  # (1,)
    return logits.argmax(-1)


def _rewind(session: Session, length: int) -> None:
    """Forget committed tokens from `length` on."""
    session.length = length
    session.keep(0)


def _fitted(
    logits: Tensor,  # (T, V of the draft)
    vocabulary: int,
) -> Tensor:  # (T, V of the target)
    """Leave out ids that the target lacks; those that only the target has are never drafted."""
    from torch.nn.functional import pad

    missing = vocabulary - logits.shape[-1]
    return logits if missing == 0 else pad(logits, (0, missing), value=-float("inf"))
