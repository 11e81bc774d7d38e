"""What `train` does, once the command line has been read; `ablation.py` shares parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from cllm_bench.cli.progress import LiveProgress
from cllm_bench.cli.run import build_tasks, check_sandbox
from cllm_bench.contracts import Recipe, TrainingJob
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, build, parse_pairs, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.runtime import Runtime
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
    check_sandbox(list(tasks.values()), allowed=options.unsafe)
    with LiveProgress(console) as progress:
        progress("reading the questions", 0, 1)
        material = {name: (task, task.samples(sources[name])) for name, task in tasks.items()}
        job = TrainingJob(family, material, options.output, progress)
        left = run_recipe(asked.name, recipe, job, lambda text: console.print(text, soft_wrap=True))
    console.print(f"left in {left}; use it with --model {left}", soft_wrap=True)


class AskedRecipe(NamedTuple):
    """A recipe as a command asks for it."""

    name: str
    cls: type[Any]
    settings: Mapping[str, str]  # as text: the family's own, and over them what the user gave


def ask_recipe(registry: Registry, family: ModelFamily, text: str) -> AskedRecipe:
    """Look up `RECIPE[:key=value,…]`, with the settings that the family has for it.

    Raises:
        UserError: There is no such recipe, or the text is malformed.
    """
    selection = parse_selection(text)
    cls = registry.recipes.get(selection.name)
    own = {key: str(value) for key, value in family.recipes.get(selection.name, {}).items()}
    return AskedRecipe(selection.name, cls, {**own, **selection.settings})


def family_to_train(model: str, roles: Sequence[str], device: str, threads: int) -> ModelFamily:
    """Find a family whose weights a recipe may start from.

    Raises:
        UserError: There is no such model, checkpoint or device.
    """
    checkpoints = parse_pairs(roles, "--role")
    find_family(model, roles=checkpoints)  # before torch is loaded: a wrong name is told at once
    # Weights in training stay in float32 whatever the device: the recipe sets the arithmetic.
    runtime = Runtime(device, "float32", threads=threads).resolve()
    return find_family(model, roles=checkpoints, runtime=runtime)
