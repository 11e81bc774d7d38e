"""Decoder layers of the Llama kind, computed with fewer and larger operations.

A pass of few tokens spends more time between its operations than in them. A layer here is three
products fewer (queries, keys and values come from one, gate and up from another), one rotation in
place of two, and no calls between modules:

    x ── norm ── W_qkv ── rotate q, k ── cache ── attention ── W_out ── + ──┐
    └───────────────────────────────────────────────────────────────────┘   │
    ┌───────────────────────────────────────────────────────────────────────┘
    ├── norm ── W_gate,up ── activation ── W_down ── + ──
    └────────────────────────────────────────────────┘

What stands before the attention and what stands behind it are two functions, which torch.compile
can make fewer kernels of (`compiled_layers`). That pays where a kernel's launch costs nothing and
its trip through memory does: in a captured graph.

It computes what transformers' layer computes, up to the rounding of a product: a layer is only
replaced where its parts are exactly these, and where it agrees on random inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache as once
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")
_ROWS = (1, 2, 16)
# Of the largest value that a layer adds, for a difference: norms compute in float32.
_TOLERANCE = 1e-4
# Variants of one function that torch.compile may make: a model has two, one of them for one row.
_VARIANTS = 64


def _rounded_rms_norm(states: Tensor, _: Any, weight: Tensor, epsilon: float) -> Tensor:
    """Return what transformers' norm of Llama returns, (B, T, H); called as `rms_norm` is."""
    wide = states.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(states.dtype)


class RoundedRMSNorm(nn.RMSNorm):
    """A norm that rounds to the states' type before it multiplies by its weight, and again then.

    It computes, to the last bit and in every precision, what the norms of Llama compute.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the states, normed: (B, T, H), as they are."""
        assert self.eps is not None
        return _rounded_rms_norm(x, self.normalized_shape, self.weight, self.eps)


# Norms that layers may have, and their formulas; the fastest first.
NORMS: Mapping[type[nn.RMSNorm], Callable[..., Tensor]] = {
    nn.RMSNorm: rms_norm,
    RoundedRMSNorm: _rounded_rms_norm,
}


@torch.no_grad()
def fuse_layers(model: PreTrainedModel) -> int:
    """Give every layer that is of the Llama kind a fused forward pass; return how many are.

    Weights keep their names and values; those of one product are laid out in one piece of memory.
    """
    count = 0
    for layer in _layers(model):
        if _is_known(layer) and _agrees(layer):
            layer.__dict__["forward"] = FusedLayer(layer)
            count += 1
    return count


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    found = getattr(model.base_model, "layers", None)
    return list(found) if isinstance(found, nn.ModuleList) else []


def _is_known(layer: nn.Module) -> bool:
    """Tell whether a layer has the parts drawn above and no others."""
    parts = dict(layer.named_children())
    if parts.keys() != _PARTS or "forward" in layer.__dict__:  # replaced, as hooks do
        return False
    attention, mlp = parts["self_attn"], parts["mlp"]
    products = [getattr(attention, name, None) for name in _PROJECTIONS]
    products += [getattr(mlp, name, None) for name in _GATED]
    norms = (parts["input_layernorm"], parts["post_attention_layernorm"])
    return (
        all(product is not None and _is_plain(product) for product in products)
        and all(type(norm) in NORMS for norm in norms)
        and len(dict(attention.named_children())) == len(_PROJECTIONS)
        and dict(mlp.named_children()).keys() == {*_GATED, "act_fn"}
        and len({product.bias is None for product in products[:3] if product}) == 1
        and getattr(attention, "sliding_window", None) is None
        and _kernel_of(attention) in ALL_ATTENTION_FUNCTIONS
        and "position_embeddings" in inspect.signature(layer.forward).parameters
    )


def _is_plain(product: nn.Module) -> bool:
    """Tell whether a product is an ordinary one: quantised ones may be of the same type.

    Their weight is then a tensor of another kind, or has integers and a scale beside it.
    """
    return (
        type(product) is nn.Linear
        and type(product.weight) is nn.Parameter
        and product.weight.is_floating_point()
        and {name for name, _ in product.named_parameters()} <= {"weight", "bias"}
        and "forward" not in product.__dict__
    )


def _kernel_of(attention: Any) -> str:
    return str(attention.config._attn_implementation)


class Parts(NamedTuple):
    """The two functions of a layer, as they are or compiled."""

    before: Callable[..., tuple[Tensor, Tensor]]
    behind: Callable[..., Tensor]


class FusedLayer:
    """The forward pass of one layer; called as transformers calls the layer's own.

    Attributes:
        parts: What computes it now.
    """

    parts: Parts

    def __init__(self, layer: Any) -> None:
        self.parts = _PLAIN
        self._attention = attention = layer.self_attn
        mlp = layer.mlp
        self._head = int(attention.head_dim)
        self._queries = attention.q_proj.out_features // self._head
        self._rotated = self._queries + attention.k_proj.out_features // self._head
        self._scaling = attention.scaling
        self._kernel = ALL_ATTENTION_FUNCTIONS[_kernel_of(attention)]
        self._qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = (attention.o_proj.weight, attention.o_proj.bias)
        self._gate_up = _joined(mlp.gate_proj, mlp.up_proj)
        self._down = (mlp.down_proj.weight, mlp.down_proj.bias)
        self._activation = mlp.act_fn
        self._norms = tuple(
            (NORMS[type(norm)], (norm.normalized_shape, norm.weight, norm.eps))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )

    def __call__(
        self,
        hidden_states: Tensor,  # (B, T, H)
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Tensor:
        """Return the layer's output, (B, T, H)."""
        assert position_embeddings is not None
        cache = past_key_values if cache is None else cache
        before, after = self._norms
        batch, rows, _ = hidden_states.shape
        rotated, values = self.parts.before(
            hidden_states, before, self._qkv, self._head, self._rotated, *position_embeddings
        )
        keys = rotated[:, self._queries :]
        if cache is not None:
            keys, values = cache.update(keys, values, self._attention.layer_idx)
        seen, _ = self._kernel(
            self._attention,
            rotated[:, : self._queries],
            keys,
            values,
            attention_mask,
            dropout=0.0,
            scaling=self._scaling,
            **options,
        )
        mixed = seen.reshape(batch, rows, -1)
        products = (self._out, self._gate_up, self._down)
        return self.parts.behind(hidden_states, mixed, after, products, self._activation)


def fused_layers_of(model: PreTrainedModel) -> list[FusedLayer]:
    """Return the passes of the layers that `fuse_layers` has fused."""
    passes = [layer.__dict__.get("forward") for layer in _layers(model)]
    return [found for found in passes if isinstance(found, FusedLayer)]


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Let fused layers run what torch.compile makes of them; all layers of a model share it.

    Raises:
        RuntimeError: It cannot be compiled here, or into no few variants.
    """
    import torch._dynamo.config as dynamo  # slow to import, and seldom needed

    fused = fused_layers_of(model)
    for found in fused:
        found.parts = _compiled_parts()
    try:
        with dynamo.patch(recompile_limit=_VARIANTS, fail_on_recompile_limit_hit=True):
            yield
    finally:
        for found in fused:
            found.parts = _PLAIN


@once
def _compiled_parts() -> Parts:
    before, behind = _PLAIN
    return Parts(torch.compile(before, fullgraph=True), torch.compile(behind, fullgraph=True))


_Norm = tuple[Callable[..., Tensor], tuple[Any, Tensor, float]]  # formula; shape, weight, epsilon
_Product = tuple[Tensor, Tensor | None]  # its weight and bias


def _before_attention(
    states: Tensor,  # (B, T, H)
    norm: _Norm,
    product: _Product,
    head: int,
    rotated: int,
    cosine: Tensor,  # (B, T, head size)
    sine: Tensor,  # (B, T, head size)
) -> tuple[Tensor, Tensor]:
    """Return queries and keys, rotated, and values; each (B, heads, T, head size)."""
    normed, details = norm
    mixed = linear(normed(states, *details), *product)
    heads = mixed.view(*states.shape[:2], -1, head).transpose(1, 2)
    return _rotate(heads[:, :rotated], cosine, sine), heads[:, rotated:]


def _behind_attention(
    states: Tensor,  # (B, T, H)
    mixed: Tensor,  # (B, T, heads · head size)
    norm: _Norm,
    products: tuple[_Product, _Product, _Product],  # out, gate and up, down
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the layer's output, (B, T, H)."""
    out, gate_up, down = products
    states = states + linear(mixed, *out)
    normed, details = norm
    gate, up = linear(normed(states, *details), *gate_up).chunk(2, -1)
    return states + linear(activation(gate) * up, *down)


_PLAIN = Parts(_before_attention, _behind_attention)


def _rotate(
    heads: Tensor,  # (B, heads, T, head size)
    cosine: Tensor,  # (B, T, head size)
    sine: Tensor,  # (B, T, head size)
) -> Tensor:
    first, second = heads.chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return heads * cosine.unsqueeze(1) + turned * sine.unsqueeze(1)


def _joined(*products: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of all products at once, and make theirs views of them."""
    biases: list[Tensor] = [product.bias for product in products if product.bias is not None]
    weight = _in_one_piece([product.weight for product in products])
    return weight, _in_one_piece(biases) if len(biases) == len(products) else None


def _in_one_piece(parts: Sequence[Tensor]) -> Tensor:
    """Lay tensors out behind each other: what is loaded into one later is in the whole too."""
    whole = torch.cat(list(parts))
    for part, view in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
        part.data = view
    return whole


def _agrees(layer: nn.Module) -> bool:
    """Compare a fused pass with the layer's own, on random states at random angles.

    On a copy in float64, and without the residual: in bfloat16 the rounding of the states hides
    what a layer adds to them, such as whether it rotates queries and keys at all, and in float32 it
    may hide what a layer of small weights adds.
    """
    copy = deepcopy(layer).double()
    fused = FusedLayer(copy)
    return all(_same(copy, fused, rows) for rows in _ROWS)


def _same(layer: nn.Module, fused: FusedLayer, rows: int) -> bool:
    attention: Any = layer.self_attn
    weight = attention.q_proj.weight
    generator = torch.Generator().manual_seed(rows)
    states = torch.randn(1, rows, weight.shape[1], generator=generator)
    angles = torch.randn(1, rows, attention.head_dim // 2, generator=generator).repeat(1, 1, 2)
    states, cosine, sine = (part.to(weight) for part in (states, angles.cos(), angles.sin()))
    expected = layer(states, attention_mask=None, position_embeddings=(cosine, sine))
    found = fused(states, position_embeddings=(cosine, sine))
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        return False
    added = expected - states
    return bool((added - (found - states)).abs().max() <= _TOLERANCE * added.abs().max())
