"""Fuses the operations of a forward pass: the same results, up to the rounding of a product.

A small model spends much of a pass between its operations. Four of the reasons go away here: norms
written as five operations where torch has one, layers of many small products (`fused_layers.py`),
what is asked again around them (`fused_body.py`), and the way in which modules find their parts.
All methods run on the same fused model.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from cllm_bench.engine.cache import is_spread
from cllm_bench.engine.fused_body import fuse_body
from cllm_bench.engine.fused_layers import fuse_layers
from cllm_bench.engine.norms import FORMULAS, rms_norms

_ROWS = (1, 2, 16, 200)


def fuse(model: PreTrainedModel) -> PreTrainedModel:
    """Prepare a model for inference where it is, in place; it must not be moved or cast later.

    One that is spread over devices stays as it is: what replaced its modules would lack the hooks
    that move states from one device to the next.
    """
    if is_spread(model):
        return model
    fuse_norms(model)
    fuse_layers(model)
    shorten_lookups(model)
    fuse_body(model)
    return model


def shorten_lookups(model: nn.Module) -> None:
    """Let modules find their parameters and children as ordinary attributes.

    `nn.Module` keeps them in dictionaries of its own, which Python asks only after it has looked
    everywhere else: some hundred times a pass. Assigning another parameter or module drops the
    entry made here; assigning to a buffer would not, and some rotary embeddings do that as the
    context grows, so buffers stay where they are. So do all parts of a module whose weights are
    loaded for each pass (accelerate's offloading): they change behind its back.
    """
    for module in model.modules():
        if hasattr(module, "_hf_hook"):
            continue
        for parts in (module._parameters, module._modules):
            for name, part in parts.items():
                if part is not None:
                    module.__dict__[name] = part


@torch.inference_mode()
def fuse_norms(model: PreTrainedModel) -> int:
    """Replace norms by the first of `rms_norms` that is the same to the last bit; return how many.

    Torch's own is the fastest, but rounds once where the norms of Llama round twice, which only
    float32 does not tell apart. Where none is equal, the model's own norm stays.
    """
    swapped = 0
    for name, module in list(model.named_modules()):
        for fused in _alike(module):
            if _agrees(module, fused):
                model.set_submodule(name, fused)
                swapped += 1
                break
    return swapped


def _alike(module: nn.Module) -> Iterator[nn.RMSNorm]:
    """Yield what might stand for a module, if it is a norm of a weight and an epsilon."""
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    weight = getattr(module, "weight", None)
    if own != {"weight"} or not isinstance(epsilon, float) or type(module) in FORMULAS:
        return
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or hasattr(module, "_hf_hook"):
        return
    for kind in rms_norms(weight.device):
        fused = kind(weight.numel(), eps=epsilon, device="meta")
        fused.weight = weight
        yield fused.train(module.training)


def _agrees(module: nn.Module, fused: nn.RMSNorm) -> bool:
    """Compare on random states and weights: others may be loaded later, and ones tell little."""
    own, other = deepcopy(module), deepcopy(fused)
    weight = torch.rand(fused.weight.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    own.weight = other.weight = nn.Parameter(weight.to(fused.weight))
    return all(_same(own, other, rows) for rows in _ROWS)


def _same(module: nn.Module, fused: nn.RMSNorm, rows: int) -> bool:
    weight = fused.weight
    generator = torch.Generator().manual_seed(rows)
    scale = 10.0 ** torch.empty(rows, 1).uniform_(-3, 3, generator=generator)
    sample = torch.randn(rows, weight.numel(), generator=generator) * scale
    states = sample[None].to(weight.device, weight.dtype)
    return torch.equal(module(states), fused(states))
