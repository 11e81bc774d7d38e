"""The roof that memory puts on decoding: every pass reads the weights and the cache once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

COPIED_BYTES = 256 * 2**20
REPEATS = 7


@cache
def copy_bandwidth(device: str) -> float | None:
    """Return the bytes per second that a large copy moves, read and written ones both counted.

    The best of several: a roof is what the machine can do. On a CPU with the run's threads. None
    where the device's memory has no room for it.
    """
    import torch

    try:
        source = torch.ones(COPIED_BYTES // 4, device=device)
        target = torch.zeros_like(source)
    except torch.OutOfMemoryError:
        return None
    best = float("inf")
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * COPIED_BYTES / best


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights that a pass reads: not an embedding that is only looked up.

    Of quantised weights what is stored counts: packed numbers, and their scales, which are no
    parameters.
    """
    inputs = getattr(model.get_input_embeddings(), "weight", None)
    outputs = getattr(model.get_output_embeddings(), "weight", None)
    return sum(
        _stored_bytes(each) for each in _stored(model) if each is not inputs or each is outputs
    )


def _stored(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield what a checkpoint of the model stores; its `state_dict` would repack some weights."""
    from torch import Tensor

    for weight in model.parameters():
        yield weight
        # bitsandbytes keeps scales beside a weight, 4-bit and 8-bit ones in different places.
        state, scales = getattr(weight, "quant_state", None), getattr(weight, "SCB", None)
        beside = [scales] if state is None else state.as_dict().values()
        yield from (each for each in beside if isinstance(each, Tensor))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield buffer


def _stored_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor; one of a quantised kind may be made of others."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        return sum(_stored_bytes(getattr(tensor, part)) for part in flatten()[0])
    return tensor.numel() * tensor.element_size()


def cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of keys and values that a pass reads for each committed token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_layer = 2 * heads * size * model.dtype.itemsize
    return int(config.num_hidden_layers * per_layer)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
