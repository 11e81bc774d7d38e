"""transformers' own `generate`, plain and assisted by a draft: another library's loops as rows.

They run on weights as the library loads them, without this project's changes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import ReplyEnded, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel

    from cllm_bench.engine.family import ModelFamily

Cache = Literal["dynamic", "static"]

BUCKET = 128  # tokens of which a static cache holds a multiple
WARM_UP = 4  # tokens behind which a compiled pass has been run, captured as a graph and replayed


@dataclass(frozen=True)
class HfGenerate:
    """transformers' own loop, one token a pass.

    Attributes:
        cache: `dynamic`: the library's default, which grows with the reply. `static`: of a fixed
            size, for which the library compiles the passes behind the prefill by itself and
            captures them as CUDA graphs. On a CPU it compiles nothing (release 5.24), and a static
            cache is slower than a dynamic one.
        checkpoint: The role in the family that decodes.
    """

    exactness: ClassVar[Exactness] = "exact"
    sampled: ClassVar[Exactness] = "distribution"
    own_weights: ClassVar[bool] = True

    cache: Cache = "dynamic"
    checkpoint: str = "target"

    def bind(self, family: ModelFamily) -> HfDecoder:
        """Load the weights, where no row has loaded them."""
        return HfDecoder(family.plain_model(self.checkpoint), cache=self.cache)


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
        """Load both models, where no row has loaded them."""
        family.refuse_tokenizer(self.draft)
        sizes = [family.vocabulary(role) for role in (self.draft, self.checkpoint)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"hf_assisted: '{self.draft}' has {sizes[0]} token ids and '{self.checkpoint}' "
                f"{sizes[1]}, and transformers' loop takes equal ones only; use 'speculative'"
            )
        draft = family.plain_model(self.draft)
        return HfDecoder(family.plain_model(self.checkpoint), draft, self.k)


class HfDecoder:
    """`generate` of one model, with or without a draft.

    The weights are shared with other rows of the library, so nothing is set on them.

    Args:
        model: Decodes.
        draft: Guesses.
        k: Guesses for a pass.
        cache: Kind of the cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        draft: PreTrainedModel | None = None,
        k: int = 4,
        cache: Cache = "dynamic",
    ) -> None:
        self._model = model
        self._draft = None if draft is None else _Draft(draft, k)
        self._cache = cache
        self._length = 0  # tokens that a static cache is to hold
        self.extra_parameters = 0
        if draft is not None:
            self.extra_parameters = sum(each.numel() for each in draft.parameters())

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

        A static cache of another size would have its passes compiled once more. So it has room for
        the largest prompt and limit so far; with a larger one some tokens are decoded first for
        nothing. The harness begins every reply once before it is timed, so that is never timed.

        Raises:
            UserError: The reply reaches a model's last position.
        """
        # The last token is never fed, and needs no position.
        room = self._positions() - len(prompt_ids) + 1
        limit = min(max_new_tokens, room)
        if self._cache == "static":
            wanted = len(prompt_ids) + limit
            grows = wanted > self._length
            if grows:
                self._length = -(-wanted // BUCKET) * BUCKET
            limit = min(self._length - len(prompt_ids), room)  # the harness stops at its own
            if grows:
                self._warm_up(prompt_ids, limit)
        self._generate(prompt_ids, sampling, limit, stop_ids, self._settling(settle))
        if room < max_new_tokens:
            raise UserError(
                f"the reply reaches the {self._positions()} positions that the model has; shorten "
                "the prompt or lower max_new_tokens"
            )

    def _warm_up(self, prompt_ids: Tensor, limit: int) -> None:
        left = WARM_UP

        def report(_: tuple[int, ...]) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise ReplyEnded("length")

        with suppress(ReplyEnded):
            self._generate(prompt_ids, Sampling(), limit, (), report)

    def _generate(
        self,
        prompt_ids: Tensor,
        sampling: Sampling,
        limit: int,
        stop_ids: Collection[int],
        report: Callable[[tuple[int, ...]], None],
    ) -> None:
        import torch

        torch.manual_seed(sampling.seed)
        self._model.generate(
            prompt_ids[None],
            attention_mask=torch.ones_like(prompt_ids[None]),
            generation_config=self._settings(sampling, limit, stop_ids),
            streamer=_Streamer(report),
            **({} if self._draft is None else {"assistant_model": self._draft.model}),
        )

    def _positions(self) -> int:
        models = [self._model] if self._draft is None else [self._model, self._draft.model]
        known = [getattr(model.config, "max_position_embeddings", None) for model in models]
        return min((each for each in known if each is not None), default=1 << 30)

    def _settings(
        self, sampling: Sampling, limit: int, stop_ids: Collection[int]
    ) -> GenerationConfig:
        from transformers import GenerationConfig

        own: dict[str, Any] = {}
        if sampling.temperature > 0:
            # A top-k of 50 is the library's own default.
            own = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if self._cache == "static":
            own["cache_implementation"] = "static"
        return GenerationConfig(
            max_new_tokens=limit,
            do_sample=sampling.temperature > 0,
            eos_token_id=sorted(stop_ids) or None,
            # One sequence is never padded. But release 5.24 hides from the draft what looks like
            # padding in the prompt, unless it may also be an end.
            pad_token_id=min(stop_ids, default=None),
            **own,
        )

    def _settling(self, settle: Callable[[Step], None]) -> Callable[[tuple[int, ...]], None]:
        if self._draft is not None:
            self._draft.take()

        def report(tokens: tuple[int, ...]) -> None:
            settle(Step(tokens, 0 if self._draft is None else self._draft.take()))

        return report


class _Draft:
    """A draft's weights, with settings and a count of passes that no other row sees.

    Attributes:
        model: What `generate` takes for the draft.
    """

    def __init__(self, weights: PreTrainedModel, k: int) -> None:
        from transformers import GenerationConfig

        self._passes = 0

        @functools.wraps(weights.forward)
        def counted(*args: Any, **options: Any) -> Any:
            self._passes += 1
            return weights.forward(*args, **options)

        self.model = copy.copy(weights)
        self.model.forward = counted
        # The library reads these from the draft, and would else stop drafting where it is unsure.
        self.model.generation_config = GenerationConfig(
            num_assistant_tokens=k,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )

    def take(self) -> int:
        """Return the passes since the last call: since the target's last one, one for a guess."""
        passes, self._passes = self._passes, 0
        return passes


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
