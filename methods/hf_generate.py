"""transformers' own `generate`, plain and assisted by a draft: another library's loops as rows.

They run on weights as the library loads them, without this project's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel

    from cllm_bench.engine.family import ModelFamily


@dataclass(frozen=True)
class HfGenerate:
    """transformers' own loop, one token a pass.

    Attributes:
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "distribution"
    own_weights: ClassVar[bool] = True

    checkpoint: str = "target"

    def bind(self, family: ModelFamily) -> HfDecoder:
        """Load the weights."""
        return HfDecoder(_weights(family, self.checkpoint))


@dataclass(frozen=True)
class HfAssisted:
    """transformers' own speculative decoding, with a fixed number of drafted tokens.

    Attributes:
        k: Tokens that the draft guesses for a pass.
        draft: The role in the family that drafts.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "distribution"
    own_weights: ClassVar[bool] = True

    k: int = 4
    draft: str = "draft"
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k must be at least 1, not {self.k}")

    @property
    def extra_roles(self) -> tuple[str, ...]:
        """The draft."""
        return (self.draft,)

    def bind(self, family: ModelFamily) -> HfDecoder:
        """Load both models."""
        from transformers import GenerationConfig

        family.refuse_tokenizer(self.draft)
        sizes = [family.vocabulary(role) for role in (self.draft, self.checkpoint)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"hf_assisted: '{self.draft}' has {sizes[0]} token ids and '{self.checkpoint}' "
                f"{sizes[1]}, and transformers' loop takes equal ones only; use 'speculative'"
            )
        draft = _weights(family, self.draft)
        # The library reads these from the draft, and would else stop drafting where it is unsure.
        draft.generation_config = GenerationConfig(
            num_assistant_tokens=self.k,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
        return HfDecoder(_weights(family, self.checkpoint), draft)


def _weights(family: ModelFamily, role: str) -> PreTrainedModel:
    """Load a role's weights without the changes that other methods' have."""
    from transformers import GenerationConfig

    from cllm_bench.engine.loading import load_weights

    model = load_weights(family.checkpoint(role), family.runtime).eval()
    # A checkpoint may bring settings of its own (top-k, penalties) that would fill every gap.
    model.generation_config = GenerationConfig()
    return model


class HfDecoder:
    """`generate` of one model, with or without a draft."""

    def __init__(self, model: PreTrainedModel, draft: PreTrainedModel | None = None) -> None:
        self._model = model
        self._draft = draft
        self._drafted = 0  # passes of the draft since the target's last one: one for each guess
        self.extra_parameters = 0
        if draft is not None:
            self.extra_parameters = sum(each.numel() for each in draft.parameters())
            draft.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._drafted += 1

    def answer(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
        *,
        max_new_tokens: int,
        stop_ids: Collection[int],
        settle: Callable[[Step], None],
    ) -> None:
        """Decode; the assisted loop drafts before its first pass, which may settle several tokens.

        Raises:
            UserError: The reply reaches a model's last position.
        """
        import torch

        # The last token is never fed, and needs no position.
        room = self._positions() - len(prompt_ids) + 1
        self._drafted = 0
        torch.manual_seed(sampling.seed)
        self._model.generate(
            prompt_ids[None],
            attention_mask=torch.ones_like(prompt_ids[None]),
            generation_config=self._settings(sampling, min(max_new_tokens, room), stop_ids),
            streamer=_Streamer(self._settling(settle)),
            **({} if self._draft is None else {"assistant_model": self._draft}),
        )
        if room < max_new_tokens:
            raise UserError(
                f"the reply reaches the {self._positions()} positions that the model has; shorten "
                "the prompt or lower max_new_tokens"
            )

    def _positions(self) -> int:
        models = [self._model] if self._draft is None else [self._model, self._draft]
        known = [getattr(model.config, "max_position_embeddings", None) for model in models]
        return min((each for each in known if each is not None), default=1 << 30)

    def _settings(
        self, sampling: Sampling, limit: int, stop_ids: Collection[int]
    ) -> GenerationConfig:
        from transformers import GenerationConfig

        drawn = {}
        if sampling.temperature > 0:
            # A top-k of 50 is the library's own default.
            drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=limit,
            do_sample=sampling.temperature > 0,
            eos_token_id=sorted(stop_ids) or None,
            # One sequence is never padded. But release 5.24 hides from the draft what looks like
            # padding in the prompt, unless it may also be an end.
            pad_token_id=min(stop_ids, default=None),
            **drawn,
        )

    def _settling(self, settle: Callable[[Step], None]) -> Callable[[tuple[int, ...]], None]:
        def report(tokens: tuple[int, ...]) -> None:
            drafted, self._drafted = self._drafted, 0
            settle(Step(tokens, drafted))

        return report


class _Streamer:
    """What `generate` reports to: first the prompt, then what each pass settled."""

    def __init__(self, report: Callable[[tuple[int, ...]], None]) -> None:
        self._report = report
        self._began = False

    def put(self, ids: Tensor) -> None:
        """Pass tokens on."""
        if self._began:
            self._report(tuple(ids.flatten().tolist()))
        self._began = True

    def end(self) -> None:
        """Do nothing."""
