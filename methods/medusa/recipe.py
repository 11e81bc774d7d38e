"""The recipe `medusa`: heads that guess ahead, for the target as it is or trained with it.

Source: Cai et al. 2024 (arXiv 2401.10774), sections 2.2 and 2.3.3.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cllm_bench.contracts import Stage, TrainingJob
from cllm_bench.errors import UserError
from cllm_bench.machine.processes import is_main

from ..recipes.base import at_least
from ..recipes.examples import collate
from ..recipes.export import leave_checkpoint, leave_log
from ..trajectories.target_answers import DistillationRun, as_it_runs

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from cllm_bench.training.trainer import Guard

    from .training import Learner

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

    def __post_init__(self) -> None:
        at_least(self, 1, "heads", "nodes", "tokens", "accumulate", "held_out", "evaluate_every")
        at_least(self, 0, "questions", "steps", "joint_steps", "seed")
        for name in ("decay", "learning_rate", "joint_learning_rate", "joint_share"):
            if getattr(self, name) <= 0:
                raise UserError(f"medusa: {name} must be above 0, not {getattr(self, name)}")
        if self.joint_factor <= 0 or not 0 <= self.warm_up < 1:
            raise UserError("medusa: joint_factor must be above 0, and warm_up from 0 to below 1")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The target."""
        return ("target",)

    @property
    def own(self) -> bool:
        """Whether each head has a projection of its own."""
        return self.projection == "own"

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return collect, fit (the heads alone), with `joint` fit-joint, export."""
        training = _Training(self, job)
        return (
            training.stage(),
            Stage("fit", training.fit),
            *([Stage("fit-joint", training.fit_joint)] if self.train == "joint" else []),
            Stage("export", training.export),
        )


@dataclass(frozen=True)
class _Training(DistillationRun[MedusaRecipe]):
    """The recipe at work on one job."""

    def fit(self, folder: Path) -> None:
        """Fit the heads to the target as it is."""
        recipe = self.recipe
        self._fit(folder, self._alone(), recipe.steps, recipe.learning_rate)

    def fit_joint(self, folder: Path) -> None:
        """Fit the target together with the heads that were fitted before."""
        recipe = self.recipe
        learner = self._together()
        learner.module.get_submodule("heads").load_state_dict(self.fitted("fit"))
        rates = {"heads": recipe.joint_factor}
        self._fit(
            folder, learner, recipe.joint_steps, recipe.joint_learning_rate, rates, went_wrong
        )

    def _fit(
        self,
        folder: Path,
        learner: Learner,
        steps: int,
        learning_rate: float,
        rates: Mapping[str, float] | None = None,
        guard: Guard | None = None,
    ) -> None:
        held_out, examples = self.examples(folder)
        data = self.batches(examples)
        plain = {"floor": 0.0, "weight_decay": 0.0}
        optimiser = self.optimiser(
            learner.module,
            folder,
            data.batches,
            rates,
            steps=steps,
            learning_rate=learning_rate,
            **plain,
        )
        optimiser.fit(
            lambda number: collate(data.batch(number)),
            learner.loss,
            lambda module: learner.watch(module, held_out),
            self.recipe.evaluate_every,
            guard,
        )

    def _alone(self) -> Learner:
        """Return heads to train on the target, which is in the precision of a run."""
        from .training import Learner, heads_alone

        recipe = self.recipe
        model = self.load("target", as_it_runs(self.job.family))
        module, outputs = heads_alone(model, self._heads(model), own=recipe.own)
        return Learner(module, outputs, recipe.heads, recipe.decay)

    def _together(self) -> Learner:
        from .training import Learner, model_with_heads

        recipe = self.recipe
        model = self.load("target")
        module, outputs = model_with_heads(model, self._heads(model), own=recipe.own)
        return Learner(module, outputs, recipe.heads, recipe.decay, recipe.joint_share)

    def _heads(self, model: PreTrainedModel) -> nn.Module:
        from .heads import new_heads

        recipe = self.recipe
        return new_heads(recipe.heads, model.get_output_embeddings().weight, own=recipe.own)

    def export(self, folder: Path) -> None:
        """Measure the heads, and leave them with what was measured; with `joint` the model too."""
        from .heads import write_heads
        from .training import measures

        held_out, _ = self.examples(folder)
        if not is_main():
            return
        recipe, joint = self.recipe, self.recipe.train == "joint"
        fit = self.work / ("fit-joint" if joint else "fit")
        learner = self._together() if joint else self._alone()
        module = learner.module
        module.load_state_dict(self.fitted(fit.name))
        measured = measures(learner.ranks(module.eval(), held_out), self.recipe.nodes)
        part = folder / "left"
        shutil.rmtree(part, ignore_errors=True)
        if joint:
            tokenizer = self.job.family.tokenizer
            leave_checkpoint(module.get_submodule("model"), tokenizer, part, self.work, fit)
        else:
            part.mkdir()
            leave_log(part, self.work, fit)
        heads = module.get_submodule("heads" if joint else "").state_dict()
        write_heads(part, heads, self._config() | {"medusa": measured})
        target = self.job.output / recipe.role
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)

    def _config(self) -> dict[str, Any]:
        """Return what published heads say of themselves."""
        target = self.job.family.checkpoint("target")
        return {
            "model_type": "medusa",
            "medusa_num_heads": self.recipe.heads,
            "medusa_num_layers": 1,
            "base_model_name_or_path": Path(target.location).name
            if target.local
            else target.location,
        }


def went_wrong(evaluations: Sequence[Mapping[str, float]]) -> str | None:
    """Say why training must stop: the newest two evaluations are far worse than the first."""
    first, *others = (each["held_out_ar_loss"] for each in evaluations)
    if len(others) > 1 and min(others[-2:]) > first + LOSS:
        return f"the AR loss on held-out answers went from {first:.3g} to {others[-1]:.3g}"
    return None
