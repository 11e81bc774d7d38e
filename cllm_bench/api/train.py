"""A training, from options to a checkpoint: what `cllm_bench.train` and the command both do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cllm_bench.api.inputs import (
    Tell,
    ask_recipe,
    build_tasks,
    check_sandbox,
    family_to_train,
)
from cllm_bench.api.options import TrainOptions
from cllm_bench.contracts import Listen, Recipe, TrainingJob
from cllm_bench.core.options import takes
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, build
from cllm_bench.data.sources import task_sources

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TrainResult:
    """What a training wrote.

    Attributes:
        folder: The family folder: pass it as `model` to `cllm_bench.run`.
        role: The role that was trained.
    """

    folder: Path
    role: str

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint, in Hugging Face's layout."""
        return self.folder / self.role

    @property
    def log(self) -> pandas.DataFrame:
        """The training log: a line for each step at which the held-out questions were evaluated."""
        import pandas

        return pandas.read_json(self.checkpoint / "training_log.jsonl", lines=True)


@takes(TrainOptions)
def train(options: TrainOptions) -> TrainResult:
    """Train a checkpoint by a recipe; the same training as `cllm-bench train`.

    Nothing is printed. A folder that holds part of the same training is continued.

    Args:
        options: See `TrainOptions`.

    Returns:
        Where the checkpoint is, and its log.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        TrainingCollapsed: The training went wrong and was stopped.
    """
    return carry_out(options, options.progress or (lambda *_: None), lambda _: None)


def carry_out(options: TrainOptions, listen: Listen, tell: Tell) -> TrainResult:
    """Train, and report on the way.

    Args:
        options: What to train.
        listen: Called with what runs, how much is done and of how much.
        tell: Called with the stages, and with what a user should know.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        TrainingCollapsed: The training went wrong and was stopped.
    """
    registry = Registry(options.plugins)
    family = family_to_train(options.model, options.roles, options.device, options.threads)
    asked = ask_recipe(registry, family, options.recipe)
    recipe: Recipe = build(asked.cls, "recipe", Selection(asked.name, asked.settings))
    from cllm_bench.training.recipe_runner import run_recipe

    tasks = build_tasks(registry, options.tasks)
    sources = task_sources(
        registry, list(tasks), options.data, built_in=family.description.built_in, split="train"
    )
    # A recipe may grade what the model writes meanwhile.
    check_sandbox(list(tasks.values()), allowed=options.allow_unsafe_code, tell=tell)
    listen("reading the questions", 0, 1)
    material = {name: (task, task.samples(sources[name])) for name, task in tasks.items()}
    job = TrainingJob(family, material, Path(options.output), listen, registry.objectives, tell)
    return TrainResult(run_recipe(asked.name, recipe, job, tell), recipe.role)
