"""Parts of a model that TorchInductor fuses while it is trained.

Those are the norms and the feed-forward half of each layer: in bfloat16 on a CPU they take as long
as all products, in many passes over states that a fused kernel makes at once. They are the same in
all layers, so one compilation, of seconds, serves them all. A whole model, with a mask and a cache
whose sizes change from batch to batch, took a quarter of an hour to compile (8 layers, two cores).

A CLLM's step of 8 layers, 320 wide, 2,048 columns, one thread with AMX: 1.47 s plain, 1.09 s so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from cllm_bench.engine.fused_layers import ATTENTION, layers_of
from cllm_bench.errors import UserError

Compiled = Mapping[nn.Module, Callable[..., Any]]


def compiled_parts(model: nn.Module) -> Compiled:
    """Return what computes the parts of a model's layers, all but their attention.

    Raises:
        UserError: The model's layers are not where most models have them.
    """
    layers = layers_of(cast(PreTrainedModel, model))
    if not layers:
        raise UserError(
            f"compile=true: no layers are known of a {type(model).__name__}; leave it out"
        )
    return {
        part: torch.compile(part.forward, dynamic=True)  # batches have many shapes
        for layer in layers
        for name, part in layer.named_children()
        if name not in ATTENTION
    }


@contextmanager
def running(parts: Compiled) -> Iterator[None]:
    """Let parts of a model run compiled; elsewhere, as in evaluations, they run as they are."""
    for part, compiled in parts.items():
        part.__dict__["forward"] = compiled
    try:
        yield
    finally:
        for part in parts:
            del part.__dict__["forward"]
