"""The recipe `medusa`: heads that guess ahead, for the target as it is or trained with it.

Source: Cai et al. 2024 (arXiv 2401.10774), sections 2.2 and 2.3.3.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cllm_bench.contracts import Stage, TrainingJob
from cllm_bench.errors import UserError
from cllm_bench.processes import is_main

from .answers import Answers, Example, collate
from .target_answers import TargetAnswers, collection_key, split_questions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from .medusa_training import Learner

LOSS = 1.0  # nats a token by which the held-out AR loss may rise


@dataclass(frozen=True)
class MedusaRecipe:
    """Train Medusa heads on the target's own generations.

    The defaults are the paper's; a family may have better ones of its own.

    Attributes:
        train: `heads`: the target stays as it is (Medusa-1). `joint`: then target and heads learn
            together, and both are left (Medusa-2); decode with `medusa:checkpoint=medusa`.
        heads: How many: head k guesses the token that is k + 2 ahead.
        projection: Of a head to the vocabulary: `own`, or `shared`: the model's, which saves most
            of the heads' size.
        nodes: Guesses in the tree that is noted beside the heads.
        questions: Training questions to ask the target; 0 is all.
        clean: Drop answers that repeat themselves.
        finished: Drop answers that were cut by the limit.
        decay: Weight of head k in the loss: this to the power of k.
        steps: Optimiser steps of the heads alone; 0 is one pass over the answers.
        learning_rate: Of the heads alone, at its peak.
        joint_steps: Optimiser steps of target and heads together; 0 is one pass over the answers.
        joint_learning_rate: Of the target in these, at its peak.
        joint_share: Weight of all heads in these, against 1 for the target.
        joint_factor: The heads' learning rate in these, in multiples of the target's.
        tokens: Tokens to a batch, padding included.
        accumulate: Batches to a step, over all processes.
        warm_up: Share of the steps over which the rate rises.
        precision: Of the arithmetic; weights stay in float32 while they are trained.
        trackers: Name of one of Accelerate's trackers.
        held_out: Questions kept for watching, and for measuring the heads.
        evaluate_every: Steps between looks at the held-out questions.
        seed: Of everything random.
    """

    role: ClassVar[str] = "medusa"

    train: Literal["heads", "joint"] = "heads"
    heads: int = 5
    projection: Literal["own", "shared"] = "own"
    nodes: int = 63
    questions: int = 0
    clean: bool = True
    finished: bool = False
    decay: float = 0.8
    steps: int = 0
    learning_rate: float = 1e-3
    joint_steps: int = 0
    joint_learning_rate: float = 2e-5
    joint_share: float = 0.2
    joint_factor: float = 4.0
    tokens: int = 8192
    accumulate: int = 1
    warm_up: float = 0.03
    precision: Literal["no", "bf16"] = "no"
    trackers: str = ""
    held_out: int = 32
    evaluate_every: int = 100
    seed: int = 0
