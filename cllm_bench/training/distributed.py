"""Where a model is trained: on one device, copied to many (DDP), or sharded over many (FSDP 2).

Which of them is said at launch (`accelerate launch`, its flags or its configuration file).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
)
from torch import Tensor, nn

from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.machine.processes import is_main, world_size


def new_accelerator(on_cpu: bool, trackers: str, folder: Path) -> Accelerator:
    """Return an Accelerator for this launch.

    Accelerate keeps one mixed precision for the whole program; the optimiser casts by itself, so
    that each training has its own.

    Raises:
        UserError: The launch or the tracker asks for something that is not here.
    """
    if trackers:
        _check_tracker(trackers)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",
        # One process trains on the device where the model is, which need not be the first.
        device_placement=world_size() > 1,
        log_with=trackers or None,
        project_dir=folder,
        # Buffers are angles of positions and the like, equal everywhere. To send them would make
        # processes wait for each other at every pass, and not only where gradients are added up.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        _shard(accelerator)
    return accelerator


def _check_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"no tracker named '{name}'; {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
    if name not in [str(kind) for kind in get_available_trackers()]:
        raise UserError(f"tracker '{name}' is not installed: pip install {name}")


def _shard(accelerator: Accelerator) -> None:
    # A new one for each training: it takes the layers to wrap from the first model that it sees.
    # Unless the launch names a policy, shards are gathered layer by layer, not all at once.
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy=policy)
    if plugin.fsdp_version != 2:
        raise UserError("FSDP version 1 is not supported; launch with --fsdp_version 2")
    # On CPUs accelerate takes no notice of FSDP and would copy the model to every process. torch
    # can shard there too, and the tests go the way that graphics cards go.
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


class Twin:
    """A plain copy of a model, without weights of its own, to evaluate a sharded one with.

    Generation over a key-value cache takes as many passes as it likes, and sharded weights would
    ask every process to make the same ones; so the main process alone runs a copy, for as long as
    an evaluation takes. It needs the memory of the whole model in float32 besides its shard.
    """

    def __init__(self, model: nn.Module) -> None:
        self._empty = _without_weights(model)

    def filled(self, state: dict[str, Tensor], device: torch.device) -> nn.Module:
        """Return a copy with these weights."""
        model = _without_weights(self._empty)
        model.load_state_dict(state, assign=True)
        return model.to(device).eval()


def _without_weights(model: nn.Module) -> nn.Module:
    """Copy a model but for its parameters, which stay on no device; tied ones stay tied."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)


def is_sharded(accelerator: Accelerator) -> bool:
    """Tell whether the launch shards models."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def twin_of(accelerator: Accelerator, model: nn.Module) -> Twin | None:
    """Return a twin where one is needed; call it before the model is prepared."""
    return Twin(model) if is_sharded(accelerator) and is_main() else None


def place(
    accelerator: Accelerator, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Put a model where the launch wants it; its optimiser follows."""
    if is_sharded(accelerator):
        # Copies get the main process's weights by themselves, shards do not.
        for parameter in model.parameters():
            torch.distributed.broadcast(parameter.data, src=0)
    placed, wrapped = accelerator.prepare(model, optimiser)
    return placed, wrapped.optimizer


def split_parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return what is trained as two groups for an optimiser: only matrices decay."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
