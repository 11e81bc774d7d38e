"""The body of a model whose layers are all fused: embedding, layers and last norm, one by one.

For every pass transformers asks again what the configuration says, whether states are to be
captured and which mask is wanted, and calls each layer through its module: a seventh of a pass of
one row of `mini`. Here layers are called as the functions that they are. Whatever else a caller may
want (all states, embeddings in place of ids, a mask to be made) the model's own forward pass does,
as before.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPastAndCrossAttentions,
)
from transformers.utils import ModelOutput

from cllm_bench.engine.attention import GROUPED
from cllm_bench.engine.cache import PreallocatedCache
from cllm_bench.engine.fused_layers import FusedLayer, Turning, fused_layers_of, layers_of, turning
from cllm_bench.engine.session import Session, cache_argument

_EMBEDDING = ("embed_tokens", "embed_in", "wte")
_LAST_NORM = ("norm", "final_layer_norm", "final_layernorm", "ln_f")
_LAYERS = ("layers", "h")
_OTHERS = ("rotary_emb", "wpe")
_PROMPT = 5  # tokens of a try, and behind them
_ROWS = 3


@torch.inference_mode()
def fuse_body(model: PreTrainedModel) -> bool:
    """Give a model's body a fused forward pass; tell whether it is one that can have it.

    Its parts must be those above and no others, its layers fused (`fuse_layers`), its positions
    enough to try it, and its results the same to the last bit.
    """
    body: Any = model.base_model
    layers = fused_layers_of(model)
    if body is model or not layers or len(layers) != len(layers_of(model)) or not _is_known(body):
        return False
    if Session(model, capacity=1).room < _PROMPT + _ROWS:
        return False
    expected, own = _outputs(model), body.forward
    body.__dict__["forward"] = LeanBody(body, layers, cache_argument(model))
    try:
        if all(torch.equal(*pair) for pair in zip(expected, _outputs(model), strict=True)):
            return True
    except torch.OutOfMemoryError:
        raise
    except Exception:  # what a body of another kind is asked for, it may answer with anything
        pass
    body.__dict__["forward"] = own
    return False


def _is_known(body: nn.Module) -> bool:
    """Tell whether a body has an embedding, layers and a last norm, and nothing unknown."""
    names = {name for name, part in body.named_children() if not isinstance(part, nn.Dropout)}
    needed = [names.intersection(group) for group in (_EMBEDDING, _LAYERS, _LAST_NORM)]
    return all(len(found) == 1 for found in needed) and not names.difference(*needed, _OTHERS)


class LeanBody:
    """The forward pass of a body; called as transformers calls the body's own."""

    def __init__(self, body: Any, layers: list[FusedLayer], cache_argument: str) -> None:
        self._own = body.forward
        self._embedding, self._norm = (
            next(getattr(body, name) for name in names if hasattr(body, name))
            for names in (_EMBEDDING, _LAST_NORM)
        )
        self._scale = float(getattr(body, "embedding_multiplier", 1.0))
        self._places = getattr(body, "wpe", None)  # learned positions
        self._rotary = getattr(body, "rotary_emb", None)
        # The head of GPT-2 asks for attentions that there are none of.
        learned = self._places is not None
        self._output: type[ModelOutput] = (
            BaseModelOutputWithPastAndCrossAttentions if learned else BaseModelOutputWithPast
        )
        kinds = self._kinds_of(body.config, len(layers))
        self._kinds = {kind: tuple(filter(None, [kind])) for kind in kinds}
        self._layers = list(zip(layers, kinds, strict=True))
        self._cache_argument = cache_argument
        kernel = body.config._attn_implementation
        self._causal = kernel in ("sdpa", GROUPED)
        self._chains = kernel == GROUPED

    def _kinds_of(self, config: Any, layers: int) -> list[str | None]:
        """Return by which kind of angles each layer turns, where there are several kinds."""
        if self._rotary is None or "layer_type" not in signature(self._rotary.forward).parameters:
            return [None] * layers
        return list(config.layer_types)

    def __call__(
        self,
        input_ids: Tensor | None = None,  # (1, T)
        attention_mask: Tensor | None = None,  # (1, 1, T, L + T), additive
        position_ids: Tensor | None = None,  # (1, T)
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> ModelOutput:
        """Return the states behind the last norm, (1, T, H), and the cache."""
        cache = options.get(self._cache_argument)
        wanted = [name for name, value in options.items() if value is not None]
        if (
            input_ids is None
            or position_ids is None
            or inputs_embeds is not None
            or wanted != [self._cache_argument]
            or not isinstance(cache, PreallocatedCache)
            or not self._is_masked(attention_mask, input_ids.shape[1], cache)
        ):
            return self._own(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **options,
            )
        states = self._embedding(input_ids)
        if self._scale != 1.0:
            states = states * self._scale
        if self._places is not None:
            states = states + self._places(position_ids)
        turns = self._turns(states, position_ids)
        for layer, kind in self._layers:
            states = layer.run(states, attention_mask, cache, turns[kind])
        return self._output(last_hidden_state=self._norm(states), **{self._cache_argument: cache})

    def _turns(
        self,
        states: Tensor,  # (1, T, H)
        positions: Tensor,  # (1, T)
    ) -> dict[str | None, Turning | None]:
        """Return what turns by the positions, by the kind of layer that it is for."""
        if self._rotary is None:
            return {None: None}
        return {
            kind: turning(self._rotary(states, positions, *argument))
            for kind, argument in self._kinds.items()
        }

    def _is_masked(self, mask: Tensor | None, rows: int, cache: PreallocatedCache) -> bool:
        """Tell whether the kernel is right with the mask that is given, or with none."""
        if mask is not None:
            return mask.dim() == 4
        return rows == 1 or self._chains or (self._causal and cache.get_seq_length() == 0)


def _outputs(model: PreTrainedModel) -> list[Tensor]:
    """Run a prompt and passes behind it: of one row, of a chain and of a tree."""
    size = model.config.get_text_config().vocab_size
    ids = [(7919 * i + 11) % size for i in range(_PROMPT + _ROWS)]
    behind = ids[_PROMPT:]
    tree = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    session = Session(model, capacity=len(ids))
    passes = [session.prefill(torch.tensor(ids[:_PROMPT], device=model.device))]
    passes += [session.forward(behind[:1]), session.forward(behind)]
    passes += [session.forward(behind, depth=torch.tensor([0, 1, 1]), mask=tree)]
    return [found.logits for found in passes]
