"""The body of a model whose layers are all fused: embedding, layers and last norm, one by one.

For every pass transformers asks again what the configuration says, whether states are to be
captured and which mask is wanted, and calls each layer through its module: a seventh of a pass of
one row of `mini`. Here layers are called as the functions that they are. Whatever else a caller may
want (all states, embeddings in place of ids, a mask to be made) the model's own forward pass does,
as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from cllm_bench.engine.attention import GROUPED
from cllm_bench.engine.cache import PreallocatedCache
from cllm_bench.engine.fused_layers import FusedLayer, fused_layers_of
from cllm_bench.engine.session import Session, cache_argument

_PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
_PROMPT = 5  # tokens of a try, and behind them
_ROWS = 3


@torch.inference_mode()
def fuse_body(model: PreTrainedModel) -> bool:
    """Give a model's body a fused forward pass; tell whether it is one that can have it.

    Its parts must be exactly those above, its layers fused (`fuse_layers`), its positions enough to
    try it, and its results the same to the last bit.
    """
    body: Any = model.base_model
    layers = fused_layers_of(model)
    parts = {name for name, _ in body.named_children()}
    if body is model or parts != _PARTS or not layers or len(layers) != len(body.layers):
        return False
    if Session(model, capacity=1).room < _PROMPT + _ROWS:
        return False
    expected, own = _outputs(model), body.forward
    body.__dict__["forward"] = LeanBody(body, layers, cache_argument(model))
    if all(torch.equal(*pair) for pair in zip(expected, _outputs(model), strict=True)):
        return True
    body.__dict__["forward"] = own
    return False


class LeanBody:
    """The forward pass of a body; called as transformers calls the body's own."""

    def __init__(self, body: Any, layers: list[FusedLayer], cache_argument: str) -> None:
        self._own = body.forward
        self._body = body
        self._layers = layers
        self._cache_argument = cache_argument
        kernel = body.config._attn_implementation
        self._causal = kernel in ("sdpa", GROUPED)
        self._chains = kernel == GROUPED

    def __call__(
        self,
        input_ids: Tensor | None = None,  # (1, T)
        attention_mask: Tensor | None = None,  # (1, 1, T, L + T), additive
        position_ids: Tensor | None = None,  # (1, T)
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        """Return the states behind the last norm, (1, T, H), and the cache."""
        cache = options.get(self._cache_argument)
        if (
            input_ids is None
            or position_ids is None
            or inputs_embeds is not None
            or len(options) > 1
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
        body = self._body
        states = body.embed_tokens(input_ids)
        angles = body.rotary_emb(states, position_ids=position_ids)
        for layer in self._layers:
            states = layer(states, attention_mask, cache=cache, position_embeddings=angles)
        return BaseModelOutputWithPast(
            last_hidden_state=body.norm(states), **{self._cache_argument: cache}
        )

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
