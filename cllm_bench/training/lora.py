"""Low-rank adapters: put into a model by peft, and merged into its weights without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from cllm_bench.errors import UserError

_NAME = "default"  # the one adapter, as peft calls it


def add_adapters(model: PreTrainedModel, rank: int) -> dict[str, Any]:
    """Freeze a model and put trainable adapters beside all its linear layers but the last.

    Source: Hu et al., LoRA (https://arxiv.org/abs/2106.09685). Scale 2, no dropout.

    Returns:
        What `merge` must know: `scale`, and the names of `transposed` layers.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("LoRA needs peft: pip install 'cllm-bench[lora]'") from None
    # GPT-2 keeps the weights of its layers the other way round; peft warns unless it is told.
    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=transposed
    )
    inject_adapter_in_model(config, model)
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    return {
        "scale": 2.0,
        "transposed": [name for name, module in layers.items() if module.fan_in_fan_out],
    }


def merge(state: Mapping[str, Tensor], adapters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the plain model: each layer's own plus what its adapter adds.

    Args:
        state: Of a model with adapters.
        adapters: What `add_adapters` returned for it.
    """
    merged = {}
    for name, value in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer, own, kind = name.rpartition(".base_layer.")
        if own and kind == "weight":
            down = state[f"{layer}.lora_A.{_NAME}.weight"]  # (rank, in)
            up = state[f"{layer}.lora_B.{_NAME}.weight"]  # (out, rank)
            added = adapters["scale"] * (up @ down)
            value = value + (added.T if layer in adapters["transposed"] else added)
        merged[f"{layer}.{kind}" if own else name] = value
    return merged
