"""A recipe at work on one job: its folder, its optimiser, the weights it loads and leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from cllm_bench.contracts import TrainingJob
from cllm_bench.errors import UserError

from .examples import Answers, E
from .export import leave_checkpoint, parent_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cllm_bench.contracts import Stage
    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.training.trainer import Optimiser


# Weights of a trained matrix are about so large. The original's 6,450 updates on Spider, at a rate
# of up to 2e-5, could move one by three times that.
LITTLE = 0.02


class FittedRecipe(Protocol):
    """A recipe with the settings that all of ours have.

    Further ones are taken where a recipe has them: those named like one of `OptimiserSettings`, and
    `attention`.
    """

    role: ClassVar[str]

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Roles whose weights the recipe starts from or learns from."""
        ...

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return the stages in order."""
        ...

    @property
    def steps(self) -> int:
        """Optimiser steps; 0 is one pass over the examples."""
        ...

    @property
    def learning_rate(self) -> float:
        """Learning rate at its peak."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens in a batch, padding included."""
        ...

    @property
    def accumulate(self) -> int:
        """Batches to a step, over all processes."""
        ...

    @property
    def precision(self) -> Literal["no", "bf16"]:
        """Precision of the arithmetic; weights stay in float32."""
        ...

    @property
    def seed(self) -> int:
        """Seed of everything random."""
        ...


R = TypeVar("R", bound=FittedRecipe)


@dataclass(frozen=True)
class RecipeRun(Generic[R]):
    """A recipe at work on one job.

    Attributes:
        recipe: Its settings.
        job: What to do.
    """

    recipe: R
    job: TrainingJob

    @property
    def work(self) -> Path:
        """Folder of the training: each stage has one in it."""
        return work_of(self.recipe, self.job)

    @cached_property
    def family(self) -> ModelFamily:
        """The family, with the attention kernel that the recipe trains with."""
        family = self.job.family
        kernel = getattr(self.recipe, "attention", family.runtime.attention)
        return family.unloaded(runtime=replace(family.runtime, attention=kernel))

    def load(self, role: str, family: ModelFamily | None = None) -> PreTrainedModel:
        """Return the weights of a role, as this family runs them or another one does."""
        from cllm_bench.engine.loading import load_weights

        family = family or self.family
        return load_weights(family.checkpoint(role), family.runtime)

    def batches(self, examples: Sequence[E]) -> Answers[E]:
        """Return examples in batches of the recipe's size and order."""
        count = getattr(self.recipe, "answers", 0)
        return Answers(examples, self.recipe.tokens, self.recipe.seed, count)

    def optimiser(
        self,
        model: nn.Module,
        folder: Path,
        batches: float,
        rates: Mapping[str, float] | None = None,
        **own: Any,
    ) -> Optimiser:
        """Return an optimiser with the recipe's settings; it goes on from what the folder has.

        Args:
            model: To train.
            folder: Of the stage.
            batches: Those that 0 steps stand for.
            rates: See `Optimiser`.
            own: Settings of the optimiser in place of the recipe's, or beside them.
        """
        from cllm_bench.training.trainer import Optimiser, OptimiserSettings

        names = (field.name for field in fields(OptimiserSettings))
        shared = {name: getattr(self.recipe, name) for name in names if hasattr(self.recipe, name)}
        settings = OptimiserSettings(**{**shared, **own})
        if not settings.steps:
            settings = replace(settings, steps=math.ceil(batches / settings.accumulate))
            if (reach := settings.reach) < LITTLE:
                self.job.tell(
                    f"{self.recipe.role}: {settings.steps} updates at a rate of up to "
                    f"{settings.learning_rate:g} move a weight by {reach:.2g} at most, which may "
                    "be too little to learn: give more steps or a higher learning_rate"
                )
        return Optimiser(model, settings, folder, self.job.listen, rates)

    def fitted(self, stage: str) -> dict[str, Tensor]:
        """Return the weights that a stage has fitted."""
        from cllm_bench.training.trainer import trained_state

        return trained_state(self.work / stage)

    def leave(
        self, model: PreTrainedModel, stage: str, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        """Leave the role's checkpoint in Hugging Face's layout, with its log and settings.

        Args:
            model: Rounded to bfloat16 in place.
            stage: That fitted it.
            tokenizer: Default: the family's.
        """
        recipe, family = self.recipe, self.job.family
        leave_checkpoint(
            model,
            tokenizer or family.tokenizer,
            self.job.output / recipe.role,
            self.work,
            self.work / stage,
            parent_of(recipe, family),
        )


def work_of(recipe: FittedRecipe, job: TrainingJob) -> Path:
    """Return the folder of a training."""
    return job.output / "training" / recipe.role


def at_least(recipe: FittedRecipe, least: float, *names: str) -> None:
    """Refuse settings that are too small.

    Raises:
        UserError: One is; the line names it.
    """
    for name in names:
        value = getattr(recipe, name)
        if value < least:
            raise UserError(f"{recipe.role}: {name} must be at least {least}, not {value}")
