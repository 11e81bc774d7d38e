"""Norms by the root of the mean square, as the families of transformers compute them.

All divide by the root of the mean square. They differ in where they round to the type of the
states, and in what they multiply by:

    x̂ = x · rsqrt(mean(x²) + ε), in float32
    Llama, Qwen, Mistral, Phi 3    weight · round(x̂)
    OLMo 2                         round(weight · x̂)
    Gemma                          round((1 + weight) · x̂)

In float32 the first two are one, and one operation of torch computes it; in lower precision that
operation rounds once, and has to be told to compute in float32. On a CPU it is no kernel but nine
calls of others, and seven do the same. `fusion.fuse_norms` takes the first kind below that equals a
model's own norm to the last bit on the device at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

Formula = Callable[..., Tensor]  # of the states, (…, n), and of what `details` returns


def _unit(states: Tensor, epsilon: float) -> Tensor:
    """Return the states in float32, over the root of their mean square."""
    wide = states.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)


def _stepwise(states: Tensor, shape: Any, weight: Tensor, epsilon: float) -> Tensor:
    """Return what `rms_norm` makes of float32 on a CPU, by its own steps, in place where it can be.

    No gradients: what they would need is written over.
    """
    scale = (states * states).sum(-1, keepdim=True)
    scale.div_(_constant(shape[-1])).add_(_constant(epsilon)).rsqrt_()
    return (states * scale).mul_(weight)


def _constant(value: float) -> float | Tensor:
    """Return a number as a tensor where each call would make one of it; a compiler needs none."""
    return value if torch.compiler.is_compiling() else _tensor(value)


@cache
def _tensor(value: float) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float32)


def _rounded(states: Tensor, _: Any, weight: Tensor, epsilon: float) -> Tensor:
    return weight * _unit(states, epsilon).to(states.dtype)


def _rounded_at_once(states: Tensor, shape: Any, weight: Tensor, epsilon: float) -> Tensor:
    return weight * rms_norm(states.float(), shape, None, epsilon).to(states.dtype)


def _wide(states: Tensor, _: Any, weight: Tensor, epsilon: float) -> Tensor:
    return (weight * _unit(states, epsilon)).to(states.dtype)


def _offset(states: Tensor, _: Any, weight: Tensor, epsilon: float) -> Tensor:
    return (_unit(states, epsilon) * (1.0 + weight.float())).to(states.dtype)


def _offset_at_once(states: Tensor, shape: Any, weight: Tensor, epsilon: float) -> Tensor:
    return rms_norm(states.float(), shape, 1.0 + weight.float(), epsilon).to(states.dtype)


class _RMSNorm(nn.RMSNorm):
    """A norm of another formula than torch's."""

    formula: ClassVar[Formula]

    def forward(self, x: Tensor) -> Tensor:
        """Return the states, normed: (…, n), as they are."""
        return type(self).formula(x, self.normalized_shape, self.weight, self.eps)


class StepwiseRMSNorm(_RMSNorm):
    """Torch's own in float32 on a CPU, by fewer calls; for inference only."""

    formula = _stepwise


class RoundedRMSNorm(_RMSNorm):
    """Rounds to the states' type before it multiplies by its weight, and again then."""

    formula = _rounded


class FastRoundedRMSNorm(_RMSNorm):
    """Rounds as `RoundedRMSNorm` does, around torch's operation in float32."""

    formula = _rounded_at_once


class WideRMSNorm(_RMSNorm):
    """Multiplies by its weight in float32."""

    formula = _wide


class OffsetRMSNorm(_RMSNorm):
    """Multiplies by one more than its weight, in float32."""

    formula = _offset


class FastOffsetRMSNorm(_RMSNorm):
    """Multiplies by one more than its weight, in torch's operation."""

    formula = _offset_at_once


_ANYWHERE: tuple[type[nn.RMSNorm], ...] = (
    nn.RMSNorm,
    FastOffsetRMSNorm,
    FastRoundedRMSNorm,
    RoundedRMSNorm,
    WideRMSNorm,
    OffsetRMSNorm,
)
# Norms that fused layers know, and their formulas.
FORMULAS: Mapping[type[nn.Module], Formula] = {
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    StepwiseRMSNorm: _stepwise,
    FastOffsetRMSNorm: _offset_at_once,
    FastRoundedRMSNorm: _rounded_at_once,
    RoundedRMSNorm: _rounded,
    WideRMSNorm: _wide,
    OffsetRMSNorm: _offset,
}


def rms_norms(device: torch.device) -> tuple[type[nn.RMSNorm], ...]:
    """Return what may stand for a model's own norm on a device, the fastest first."""
    return (StepwiseRMSNorm, *_ANYWHERE) if device.type == "cpu" else _ANYWHERE


# Formulas that take weights of other shapes too: (groups, n) for states of (…, groups, n).
BROADCAST = frozenset({_stepwise, _rounded_at_once, _rounded, _wide, _offset})


def details(norm: Any) -> tuple[Any, ...]:
    """Return what a norm's formula takes beside the states: shape, weights, epsilon."""
    weights = (norm.weight, norm.bias) if isinstance(norm, nn.LayerNorm) else (norm.weight,)
    return norm.normalized_shape, *weights, norm.eps
