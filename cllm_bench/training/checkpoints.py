"""The files of a training: whole checkpoints, a log, and the mark of a collapse.

One code path serves a model in one process, copied to many (DDP) and sharded over many (FSDP 2):
weights and optimiser state are gathered whole into the main process, which writes them, and every
process reads the file back and takes its part.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from cllm_bench.core.files import append, write_atomically, writing
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.training.lora import merge

CHECKPOINT = "checkpoint.pt"
GOOD = "good.pt"
COLLAPSED = "collapsed.json"
LOG = "log.jsonl"

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the whole weights; every process must call it, and only the main one gets them.

    Tied weights stay one tensor under several names, so a file holds them once.
    """
    state = cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))
    for name, first in _tied(model).items():
        if first in state:
            state[name] = state[first]
    return state


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Gather the whole state of an optimiser, by parameter name; as `model_state`."""
    return dict(get_optimizer_state_dict(model, optimiser, options=_WHOLE))


def restore(
    model: nn.Module, optimiser: torch.optim.Optimizer, checkpoint: Mapping[str, Any]
) -> None:
    """Put gathered states back; every process must call it, with the whole states."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, dict(checkpoint["model"]), options=options)
    set_optimizer_state_dict(model, optimiser, checkpoint["optimiser"], options=options)


def _tied(model: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that have several: name to first name."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    first: dict[int, str] = {}
    found = {}
    for name, parameter in inner.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    temporary = file.with_name(f"{file.name}.writing")
    with writing(file):
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


def read_state(file: Path) -> dict[str, Any]:
    """Read a state; its tensors are loaded as they are used.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read '{file}': {reason}; delete it to begin anew") from None
    return found


def trained_state(folder: Path, name: str = CHECKPOINT) -> dict[str, Tensor]:
    """Return the weights that a fit left in its folder, in float32, adapters merged into them.

    They fit the plain model, with `load_state_dict`.

    Args:
        folder: Of the optimiser.
        name: `good.pt` for those that were kept before a collapse.

    Raises:
        UserError: The folder holds none.
    """
    file = folder / name
    if not file.exists():
        raise UserError(f"'{folder}' holds no trained weights; repeat the training")
    checkpoint = read_state(file)
    adapters = checkpoint["adapters"]
    state: dict[str, Tensor] = checkpoint["model"]
    return state if adapters is None else merge(state, adapters)


def log_line(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    """Append figures to the log; what is no finite number becomes null."""
    finite = {k: v if math.isfinite(v) else None for k, v in figures.items()}
    line = {"step": step, **finite, "time": round(time.time(), 1)}
    append(folder / LOG, f"{json.dumps(line)}\n".encode())


def drop_later(folder: Path, step: int) -> None:
    """Forget logged steps that will be run again, so that each is logged once."""
    file = folder / LOG
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_atomically(file, "".join(kept))


def collapse(folder: Path, reason: str, step: int, good: float | None) -> None:
    """Mark a folder: its training went wrong, and nothing goes on there.

    Args:
        folder: Of the optimiser.
        reason: The figure that tells.
        step: At which it was seen.
        good: Step of the last good weights, if any were kept.
    """
    mark = {"reason": reason, "step": step, "good": good}
    write_atomically(folder / COLLAPSED, json.dumps(mark, indent=2) + "\n")


def refuse_collapsed(folder: Path) -> None:
    """Refuse to go on where a training collapsed.

    Raises:
        TrainingCollapsed: It did.
    """
    file = folder / COLLAPSED
    if not file.exists():
        return
    mark = json.loads(file.read_text(encoding="utf-8"))
    if mark["good"] is None:
        kept = "no good weights were kept before it"
    else:
        kept = f"the last good weights, of step {mark['good']}, are in '{folder / GOOD}'"
    raise TrainingCollapsed(
        f"the training collapsed at step {mark['step']}: {mark['reason']}; {kept}"
    )
