"""An attention kernel of plain products that stays in the precision of the arithmetic.

transformers' `eager` kernel turns every score into float32 and back, and under autocast scales and
masks it there as well. In bfloat16 on a CPU that takes longer than the products themselves, and the
fused kernel's backward pass is slow with a mask: one step of a CLLM's training took 338 ms with
`eager`, 297 ms with `sdpa` and 272 ms with `plain` (`mini`, two cores with AMX).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "plain"


def plain_attention(
    module: nn.Module,
    query: Tensor,  # (B, heads, T, D)
    key: Tensor,  # (B, key heads, L + T, D)
    value: Tensor,  # (B, key heads, L + T, D)
    attention_mask: Tensor | None,  # (B or 1, 1, T, L + T), additive
    scaling: float | None = None,
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
    scores = (query * scale).to(dtype) @ key.to(dtype).transpose(2, 3)
    if attention_mask is not None:
        # The least float32 is none of bfloat16: it would become infinite, and a padding row NaN.
        scores = scores + attention_mask.clamp(min=torch.finfo(dtype).min).to(dtype)
    return (scores.softmax(-1) @ value.to(dtype)).transpose(1, 2), None


def register() -> None:
    """Make the kernel known to transformers, with the masks that `eager` gets."""
    AttentionInterface.register(NAME, plain_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
