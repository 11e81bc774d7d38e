"""An attention kernel of plain products that stays in the precision of the arithmetic.

transformers' `eager` kernel turns every score into float32 and back, and under autocast scales and
masks it there as well. In bfloat16 on a CPU that takes longer than the products themselves, and the
fused kernel's backward pass is slow with a mask: one step of a CLLM's training took 338 ms with
`eager`, 297 ms with `sdpa` and 272 ms with `plain` (`mini`, two cores with AMX).

Told how a sequence is packed, the kernel also leaves out what its mask would hide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "plain"


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
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (query * scale).to(dtype), key.to(dtype), value.to(dtype)
    if attention_mask is not None:
        # The least float32 is none of bfloat16: it would become infinite, and a padding row NaN.
        attention_mask = attention_mask.clamp(min=torch.finfo(dtype).min).to(dtype)
    if packing is not None and attention_mask is not None:
        return _packed(query, key, value, attention_mask, packing).transpose(1, 2), None
    return _attend(query, key, value, attention_mask).transpose(1, 2), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores += mask
    return scores.softmax(-1) @ value


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
    """Make the kernel known to transformers, with the masks that `eager` gets."""
    AttentionInterface.register(NAME, plain_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
