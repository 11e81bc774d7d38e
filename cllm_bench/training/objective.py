"""The contracts between a recipe and the optimiser, and the settings of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel


class LossSum(NamedTuple):
    """The loss of one micro-batch, not yet divided.

    Sums, because micro-batches differ in size: a step divides what all of them summed by what all
    of them counted, so it does not matter how its batch was cut into pieces.
    """

    total: Tensor  # () the sum that is minimised, with its graph
    count: float  # type: ignore[assignment]  # over how many it is a sum (tokens); may be fractional
    parts: Mapping[str, Tensor]  # detached sums over the same count, the same names in every batch


Batches = Callable[[int], Any]  # number of a micro-batch -> batch; the same whenever asked for
Loss = Callable[[nn.Module, Any], LossSum]
Evaluate = Callable[[PreTrainedModel], Mapping[str, float]]
# All evaluations so far, oldest first, each with its `step` -> reason to stop, or None.
Guard = Callable[[Sequence[Mapping[str, float]]], str | None]


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW with warm-up and cosine decay.

    Attributes:
        steps: Optimiser steps in all.
        learning_rate: At its peak.
        warm_up: Share of the steps over which the rate rises.
        floor: Share of the peak rate at the end.
        weight_decay: On matrices only.
        clip: Largest norm of the gradient.
        accumulate: Micro-batches to a step, over all processes.
        precision: Of the arithmetic; weights and optimiser state stay in float32.
        compile: Let TorchInductor fuse norms and feed-forward parts; it takes a C++ compiler.
        gradient_checkpointing: Compute activations twice in place of keeping them.
        lora_rank: Train adapters of that rank in place of the weights; 0 trains the weights.
        trackers: Name of one of Accelerate's trackers, such as `tensorboard` or `wandb`.
        seed: Of everything random.
        save_every: Seconds between checkpoints, more where saving takes long; 0 saves every step.
    """

    steps: int
    learning_rate: float
    warm_up: float = 0.03
    floor: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    trackers: str = ""
    seed: int = 0
    save_every: float = 60.0

    @property
    def reach(self) -> float:
        """How far all steps can move a weight: AdamW moves it by about the rate at most."""
        return self.learning_rate * sum(schedule(step, self) for step in range(self.steps))


def schedule(step: int, settings: OptimiserSettings) -> float:
    """Return the share of the peak rate at a step, counted from 0."""
    warm = max(1, round(settings.warm_up * settings.steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.floor + (1 - settings.floor) * cosine
