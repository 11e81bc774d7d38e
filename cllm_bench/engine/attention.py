"""The project's own attention kernels, `grouped` for decoding and `plain`.

`grouped` is torch's fused attention, asked in the way that suits passes of few rows over a long
cache. transformers' `sdpa` copies the keys and values of the whole window for every group of query
heads as soon as there is a mask, so that passes of several rows pay what passes of one row do not.
Here groups lie beside each other as if they were a batch (or rows, where there is one row), and
nothing is copied. And a chain needs no mask: its last row sees everything, which flash attention
knows as lower-right causal.

`plain` consists of products, and stays in the precision of the arithmetic. transformers' `eager`
kernel turns every score into float32 and back, and under autocast scales and
masks it there as well. In bfloat16 on a CPU that takes longer than the products themselves, and the
fused kernel's backward pass is slow with a mask: one step of a CLLM's training took 338 ms with
`eager`, 297 ms with `sdpa` and 272 ms with `plain` (`mini`, two cores with AMX).

Told how a sequence is packed, it also leaves out what its mask would hide. Groups are rows of its
products, so it copies no window either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

GROUPED = "grouped"
PLAIN = "plain"


class Packing(NamedTuple):
    """How the T columns of a packed sequence are laid out: one part, then copies.

    Rows of the first part see columns of it alone; those of a copy see the first part and their
    own copy, never another one. Where the first part comes from a cache, L = `clean`, all rows are
    of copies; otherwise L = 0.

    Attributes:
        clean: Columns of the first part.
        span: Columns of each copy; (L + T - clean) / span is their number, C.
    """

    clean: int
    span: int


def grouped_attention(
    module: nn.Module,
    query: Tensor,  # (1, heads, T, D)
    key: Tensor,  # (1, key heads, L + T, D)
    value: Tensor,  # (1, key heads, L + T, D)
    attention_mask: Tensor | None,  # (1, 1, T, L + T), additive; none is a chain
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return what attention gives, (1, T, heads, D); whatever else is asked transformers does."""
    batch, heads, rows, _ = query.shape
    if batch != 1 or dropout or any(options.get(name) is not None for name in _UNKNOWN):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return found
    groups = heads // key.shape[1]
    chain = attention_mask is None and rows > 1
    native = (
        chain and query.is_cuda and query.dtype != torch.float32
    )  # flash attention knows groups
    apart = groups > 1 and rows > 1 and not native  # groups as a batch
    if apart:
        query = query[0].view(-1, groups, *query.shape[2:]).transpose(0, 1)
        key, value = (part.expand(groups, -1, -1, -1) for part in (key, value))
    elif groups > 1 and not native:
        query = query.view(1, -1, groups, query.shape[-1])
    causal = chain and key.shape[2] == rows
    if chain and not causal:
        attention_mask = causal_lower_right(rows, key.shape[2])
    mixed = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        is_causal=causal,
        scale=scaling,
        enable_gqa=native and groups > 1,
    )
    if apart:  # (groups, key heads, T, D)
        return mixed.permute(2, 1, 0, 3).reshape(1, rows, heads, -1), None
    return mixed.reshape(1, heads, rows, -1).transpose(1, 2).contiguous(), None


_UNKNOWN = ("softcap", "position_bias", "s_aux")  # options that change what is computed


def knows_lower_right(model: PreTrainedModel) -> bool:
    """Tell whether chains need no mask: the kernel is `grouped`, and faster without one."""
    kernel = str(model.config.get_text_config()._attn_implementation)
    return kernel == GROUPED and model.device.type == "cuda"


def plain_attention(
    module: nn.Module,
    query: Tensor,  # (B, heads, T, D)
    key: Tensor,  # (B, key heads, L + T, D)
    value: Tensor,  # (B, key heads, L + T, D)
    attention_mask: Tensor | None,  # (B or 1, 1, T, L + T), additive
    scaling: float | None = None,
    packing: Packing | None = None,  # needs a mask
    **_: Any,
) -> tuple[Tensor, None]:
    """Return what attention gives, (B, T, heads, D); dropout is for others."""
    kind = query.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else query.dtype
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (query * scale).to(dtype), key.to(dtype), value.to(dtype)
    if attention_mask is not None:
        # The least float32 is none of bfloat16: it would become infinite, and a padding row NaN.
        attention_mask = attention_mask.clamp(min=torch.finfo(dtype).min).to(dtype)
    if packing is not None and attention_mask is not None:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        return _packed(query, key, value, attention_mask, packing).transpose(1, 2), None
    return _attend(query, key, value, attention_mask).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    batch, heads, rows, size = query.shape
    # Heads of one group are rows of one product: (B, key heads, groups · T, D).
    query = query.reshape(batch, key.shape[1], -1, size)
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        each = scores.view(batch, key.shape[1], -1, rows, scores.shape[-1])
        each += mask.unsqueeze(2)
    return (scores.softmax(-1) @ value).view(batch, heads, rows, -1)


def _packed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, packing: Packing) -> Tensor:
    clean, span = packing
    count = (key.shape[2] - clean) // span
    first = query.shape[2] - count * span  # rows of the first part: all of it, or none

    def apart(rows: Tensor) -> Tensor:  # (B, h, C * span, n) -> (B, h, C, span, n)
        return rows.reshape(*rows.shape[:2], count, span, rows.shape[-1])

    keys, values = key[:, :, :clean], value[:, :, :clean]
    before = query[:, :, first:] @ keys.transpose(-1, -2)
    before += mask[:, :, first:, :clean]
    own_query = apart(query[:, :, first:])
    own_key, own_value = (apart(part[:, :, clean:]) for part in (key, value))
    own = own_query @ own_key.transpose(-1, -2)
    # Of the masks between copies only those of each with itself: (B, 1, C, span, span).
    blocks = mask[:, :, first:, clean:].reshape(len(mask), 1, count, span, count, span)
    own += blocks.diagonal(dim1=2, dim2=4).movedim(-1, 2)
    shares = torch.cat([before, own.flatten(2, 3)], dim=-1).softmax(-1)
    copies = shares[..., :clean] @ values
    copies += (apart(shares[..., clean:]) @ own_value).flatten(2, 3)
    if not first:
        return copies
    head = _attend(query[:, :, :first], keys, values, mask[:, :, :first, :clean])
    return torch.cat([head, copies], dim=2)


def register() -> None:
    """Make the kernels known to transformers.

    `plain` gets the masks of `eager`. `grouped` gets none that it was not given: without one it
    takes the rows for a chain.
    """
    AttentionInterface.register(PLAIN, plain_attention)
    AttentionMaskInterface.register(PLAIN, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, lambda *_, **__: None)
