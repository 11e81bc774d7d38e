"""Runs a session on a model that is spread over two devices that exist in name only.

A tensor on `fake:0` or `fake:1` has a shape and a device and no values, and an operation on tensors
of both raises, as on two GPUs. Registering such a kind of device changes the process, so this is a
program of its own; it prints what it found as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
}


def device_map() -> dict[str, torch.device]:
    first = ["model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1"]
    second = ["model.layers.2", "model.layers.3", "model.norm", "lm_head"]
    places = dict.fromkeys(first, torch.device("fake", 0))
    return places | dict.fromkeys(second, torch.device("fake", 1))


def place(model: nn.Module, mode: FakeTensorMode, places: dict[str, torch.device]) -> None:
    """Put every tensor of a model on the meta device where the map says."""
    for name, module in model.named_modules():
        for parts in (module._parameters, module._buffers):
            for key, tensor in parts.items():
                if tensor is not None:
                    where = next(d for p, d in places.items() if f"{name}.{key}".startswith(p))
                    fake = FakeTensor(mode, tensor.detach(), where)
                    is_weight = isinstance(tensor, nn.Parameter)
                    parts[key] = nn.Parameter(fake, requires_grad=False) if is_weight else fake


def main() -> None:
    from accelerate import dispatch_model
    from transformers import LlamaConfig

    from cllm_bench.engine.fusion import fuse
    from cllm_bench.engine.memory import skeleton
    from cllm_bench.engine.session import Session

    _setup_privateuseone_for_python_backend("fake")
    model = skeleton(LlamaConfig(**CONFIG), torch.float32)
    places, mode = device_map(), FakeTensorMode()
    place(model, mode, places)
    warnings.simplefilter("ignore")  # accelerate asks for addresses, of which there are none
    found: dict[str, object] = {}
    with mode:
        skipped = model._skip_keys_device_placement
        main_device = torch.device("fake", 0)
        dispatch_model(model, places, main_device=main_device, skip_keys=skipped)
        session = Session(fuse(model), capacity=8)

        def tensor(*values: int) -> torch.Tensor:
            return torch.tensor(values).to(session.device)

        outputs = [session.prefill(tensor(1, 2, 3, 4, 5))]
        outputs.append(session.forward(tensor(6, 7, 8), hidden=True))
        session.keep(2)
        tree = torch.ones(3, 3, dtype=torch.bool).tril().to(session.device)
        outputs.append(session.forward(tensor(6, 7, 8), depth=tensor(0, 1, 1), mask=tree))
        session.keep(tensor(0, 2))
        session.keep(0)
        outputs.append(session.forward(tensor(*range(16))))  # the cache has to grow
        session.keep(16)
        hidden = outputs[1].hidden
        assert hidden is not None
        found["logits"] = sorted({str(each.logits.device) for each in outputs})
        found["hidden"] = str(hidden.device)
        found["rows"] = [each.logits.shape[0] for each in outputs]
        found["cache"] = [str(layer.keys.device) for layer in session._cache.layers]
        try:
            torch.ones(2, device="fake:0") + torch.ones(2, device="fake:1")
            found["mixed"] = "goes unnoticed"
        except RuntimeError:
            found["mixed"] = "raises"
    found["length"] = session.length
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
