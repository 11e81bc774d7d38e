"""The processes of one training: a plain command is one, `accelerate launch` or torchrun many.

All of them run the same code on the same command line; only the main one writes files and talks.
They must see the same files, so several machines need a shared file system. Nothing here loads
torch before there is something to wait for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

from cllm_bench.errors import TrainingCollapsed, UserError

Result = TypeVar("Result")


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Return how many of them run on this machine and share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this is the process that writes files and talks."""
    return rank() == 0


def join(device: str) -> None:
    """Meet the other processes; on CUDA, take this process's own device.

    Args:
        device: `cpu` or `cuda`; must be known here, for the processes talk through it.
    """
    if world_size() == 1:
        return
    import atexit
    from datetime import timedelta

    import torch
    from accelerate import PartialState
    from accelerate.utils import disable_fsdp_ram_efficient_loading

    # Whole weights in every process: with that switch transformers leaves them out in all but one,
    # and what a recipe does with its model before the optimiser has it would go wrong.
    disable_fsdp_ram_efficient_loading()
    # The main process may evaluate for hours while the others wait; the launcher ends them if it
    # dies, so no time limit is needed for that.
    if not torch.distributed.is_initialized():
        PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
        if device == "cpu":
            atexit.register(_part)


def _part() -> None:
    """Let go of the other processes.

    Gloo's threads hold tensors, and abort the process if they let go of them while the interpreter
    goes down. NCCL has no such threads; taking leave from processes that no longer answer can hang.
    """
    import gc

    import torch

    gc.collect()  # models hold the connection too
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() == 1:
        return
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def on_main(work: Callable[[], Result]) -> Result:
    """Run something in the main process while the others wait; return its result in all of them.

    Raises:
        UserError: The work raised it; raised in every process, so that none waits for ever.
        TrainingCollapsed: Likewise.
    """
    if world_size() == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    outcome: list[object] = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except (UserError, TrainingCollapsed) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return cast(Result, outcome[0])


def cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process cannot be told to use fewer
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
