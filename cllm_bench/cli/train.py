"""What `train` does, once the command line has been read; `ablation.py` shares parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cllm_bench.api.inputs import ask_recipe, build_tasks, check_sandbox, family_to_train
from cllm_bench.cli.progress import LiveProgress, say
from cllm_bench.contracts import Recipe, TrainingJob
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, build
from cllm_bench.data.sources import task_sources
from cllm_bench.machine.processes import is_main


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`, as given."""

    recipe: str
    tasks: tuple[str, ...]
    model: str
    roles: tuple[str, ...]
    data: tuple[str, ...]
    output: Path
    device: str
    threads: int
    unsafe: bool
    plugins: tuple[Path, ...]


def train_command(options: TrainOptions) -> None:
    """Run a recipe.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """
    registry = Registry(options.plugins)
    family = family_to_train(options.model, options.roles, options.device, options.threads)
    asked = ask_recipe(registry, family, options.recipe)
    recipe: Recipe = build(asked.cls, "recipe", Selection(asked.name, asked.settings))
    from cllm_bench.training.recipe_runner import run_recipe

    console = Console(stderr=True, quiet=not is_main())
    tasks = build_tasks(registry, options.tasks)
    sources = task_sources(
        registry, list(tasks), options.data, built_in=family.built_in, split="train"
    )
    # A recipe may grade what the model writes meanwhile.
    check_sandbox(list(tasks.values()), allowed=options.unsafe, tell=say)
    with LiveProgress(console) as progress:
        progress("reading the questions", 0, 1)
        material = {name: (task, task.samples(sources[name])) for name, task in tasks.items()}
        job = TrainingJob(family, material, options.output, progress, registry.objectives)
        left = run_recipe(asked.name, recipe, job, lambda text: console.print(text, soft_wrap=True))
    console.print(f"left in {left}; use it with --model {left}", soft_wrap=True)
