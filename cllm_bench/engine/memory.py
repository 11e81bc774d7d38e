"""Memory that models and sessions take, before any weights are loaded; and where layers go."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import cached_file

from cllm_bench.engine.checkpoint import Checkpoint, declared_kind, is_expanded
from cllm_bench.engine.positions import positions
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import INITIAL_CAPACITY
from cllm_bench.errors import UserError
from cllm_bench.machine.memory import free_memory
from cllm_bench.machine.roofline import cache_bytes

_WHOLE = 0.5  # of the first device, which a model may take and stay whole
_FOR_WEIGHTS = 0.85  # of each device; the rest is for caches and states
_CONFIG = "config.json"
_HUB = ("model.safetensors.index.json", "model.safetensors")  # either is beside all others


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the weights of one checkpoint, and sessions on them, take of a device's memory.

    Attributes:
        weights: Bytes of parameters and buffers.
        cache_per_token: Bytes of keys and values of one token; 0 where no session runs the weights.
        logits_per_row: Bytes of one row of logits, V of them, and of their copy in float32.
        positions: Tokens that a sequence can have; None where the model sets no limit.
    """

    weights: int
    cache_per_token: int = 0
    logits_per_row: int = 0
    positions: int | None = None

    def cache(self, tokens: int) -> int:
        """Return the bytes of a session's cache that has grown to so many tokens."""
        capacity = INITIAL_CAPACITY
        while capacity < min(tokens, self.positions or tokens):
            capacity *= 2
        return capacity * self.cache_per_token


def footprint(checkpoint: Checkpoint, runtime: Runtime) -> Footprint | None:
    """Return what a checkpoint will take, from its configuration or the headers of its files.

    Weights that no session runs, such as Medusa heads, count as many elements as are stored, and
    quantised ones as many bytes, unless they are expanded on loading. None where the
    configuration makes no model that can be measured: loading it says why.
    """
    dtype: torch.dtype = getattr(torch, runtime.dtype)
    try:
        if not _is_causal_model(checkpoint):
            elements = sum(each.elements for each in _stored(checkpoint))
            return Footprint(elements * dtype.itemsize)
        config = AutoConfig.from_pretrained(checkpoint.location, revision=checkpoint.revision)
        if declared_kind(config) is None:
            return model_footprint(config, dtype)
        found = model_footprint(config, getattr(config, "dtype", None) or torch.float16)
        if is_expanded(config, runtime.device):
            return found
        stored = sum(each.size for each in _stored(checkpoint))
        return replace(found, weights=stored or found.weights)
    except Exception:  # a damaged file may raise anything
        return None


def model_footprint(config: PreTrainedConfig, dtype: torch.dtype) -> Footprint:
    """Return what a causal model of a configuration takes; makes no weights."""
    model = skeleton(config, dtype)
    text = config.get_text_config()
    return Footprint(
        weights=sum(
            each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()]
        ),
        cache_per_token=cache_bytes(model),
        logits_per_row=text.vocab_size * (dtype.itemsize + torch.float32.itemsize),
        positions=positions(config),
    )


def skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model without values, on the meta device, whose weights are not quantised."""
    plain = copy.deepcopy(config)
    plain.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(plain, dtype=dtype)
    return model.eval()


def placement(checkpoint: Checkpoint, runtime: Runtime) -> dict[str, Any]:
    """Return where a checkpoint's layers go, as arguments of transformers' `from_pretrained`.

    Weights may take most of each device, and nothing of the host's memory or of the disk.
    """
    if runtime.device_map == "none":
        return {"device_map": runtime.device}
    free = {index: free_memory(device) or 0 for index, device in enumerate(runtime.devices)}
    if runtime.device_map == "auto":
        found = footprint(checkpoint, runtime)
        if found is not None and found.weights <= _WHOLE * free[0]:
            return {"device_map": runtime.device}
    limits = {index: round(_FOR_WEIGHTS * size) for index, size in free.items()}
    return {"device_map": runtime.device_map, "max_memory": limits}


def refuse_offload(model: PreTrainedModel, runtime: Runtime, name: str) -> None:
    """Refuse a model of which not all layers are on the devices of a run.

    Its speed would be that of the bus or of the disk, whose share no method can lower.

    Raises:
        UserError: Some are elsewhere.
    """
    places = getattr(model, "hf_device_map", {}).values()
    elsewhere = {str(place) for place in places if str(place) in ("cpu", "disk")} - {runtime.device}
    if elsewhere:
        raise UserError(
            f"'{name}' does not fit into the memory of {', '.join(runtime.devices)} in "
            f"{runtime.dtype}: layers would be left in {' and '.join(sorted(elsewhere))}; name a "
            "smaller model, or one with quantised weights"
        )


def _is_causal_model(checkpoint: Checkpoint) -> bool:
    found = _file(checkpoint, _CONFIG)
    if found is None:
        return False
    kind = json.loads(found.read_text(encoding="utf-8")).get("model_type")
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


class _Stored(NamedTuple):
    """A tensor in a file."""

    elements: int
    size: int  # bytes


def _stored(checkpoint: Checkpoint) -> Iterator[_Stored]:
    """Yield what the files of a checkpoint hold, by their headers alone."""
    location = Path(checkpoint.location)
    if not checkpoint.local:
        found = next(filter(None, (_file(checkpoint, name) for name in _HUB)), None)
        if found is None:
            return
        location = found.parent
    for file in location.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                yield _Stored(math.prod(tensor["shape"]), end - start)


def _file(checkpoint: Checkpoint, name: str) -> Path | None:
    """Return a file of a folder or a repository, or none where it has no such file."""
    found: Any = cached_file(
        checkpoint.location,
        name,
        revision=checkpoint.revision,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found)
