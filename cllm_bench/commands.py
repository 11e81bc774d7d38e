"""What `run` and `train` do, once the command line has been read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import typer
from rich.console import Console

from cllm_bench.contracts import Recipe, Sampling, TrainingJob
from cllm_bench.errors import UserError
from cllm_bench.family import ModelFamily, find_family
from cllm_bench.plan import RunPlan, plan_cells, plan_task
from cllm_bench.progress import LiveProgress
from cllm_bench.registry import Registry
from cllm_bench.runtime import Runtime
from cllm_bench.settings import Selection, build, parse_pairs, parse_selection, split_selections
from cllm_bench.sources import task_sources


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`, as given."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    model: str
    roles: tuple[str, ...]
    data: tuple[str, ...]
    limit: int | None
    repeats: int
    output: Path | None
    seed: int
    device: str
    dtype: str
    attention: str
    threads: int
    plugins: tuple[Path, ...]


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
    plugins: tuple[Path, ...]


def run_command(options: RunOptions) -> None:
    """Plan, run, summarise and show.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        Exit: With code 1, where a sample failed.
    """
    console = Console(stderr=True)
    plan = _plan(options)
    output = options.output or _default_output(plan)
    from cllm_bench.reports import rich_table
    from cllm_bench.runner import Runner

    with LiveProgress(console) as progress:
        runner = Runner(plan, output, progress)
        for warning in runner.folder.warnings:
            console.print(f"note: {warning}", style="yellow")
        with runner.folder:
            summaries = runner.run()
    rich_table([(runner.folder.manifest, summaries)])
    console.print(f"stored in {output} (table.md, summary.json, samples.jsonl, manifest.json)")
    failed = sum(summary["failed"] for summary in summaries)
    if failed:
        console.print(f"{failed} samples failed: see the rows with finish=failed", style="red")
        raise typer.Exit(1)


def train_command(options: TrainOptions) -> None:
    """Run a recipe.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """
    registry = Registry(options.plugins)
    # Weights in training stay in float32 whatever the device: the recipe sets the arithmetic.
    runtime = Runtime(options.device, "float32", threads=options.threads)
    family = _family(options.model, options.roles, runtime)
    selection = parse_selection(options.recipe)
    cls = registry.recipes.get(selection.name)
    own = {key: str(value) for key, value in family.recipes.get(selection.name, {}).items()}
    recipe: Recipe = build(cls, "recipe", Selection(selection.name, {**own, **selection.settings}))
    from cllm_bench.training import run_recipe

    console = Console(stderr=True)
    tasks = _selections(options.tasks, "--task", registry.tasks.names())
    names = [task.name for task in tasks]
    sources = task_sources(registry, names, options.data, built_in=family.bundled, split="train")
    with LiveProgress(console) as progress:
        job = TrainingJob(
            family,
            {
                task.name: (
                    build(registry.tasks.get(task.name), "task", task),
                    sources[task.name],
                )
                for task in tasks
            },
            options.output,
            progress,
        )
        left = run_recipe(selection.name, recipe, job, lambda text: console.print(text))
    console.print(f"left in {left}; use it with --model {left}")


def _plan(options: RunOptions) -> RunPlan:
    registry = Registry(options.plugins)
    if options.repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {options.repeats}")
    methods = [
        parse_selection(text)
        for text in _required(options.methods, "--method", registry.methods.names())
    ]
    tasks = _selections(options.tasks, "--task", registry.tasks.names())
    cells = plan_cells(registry, methods)
    if options.attention not in ("sdpa", "eager"):
        raise UserError(f"--attention {options.attention} is not one of sdpa, eager")
    attention = cast(Literal["sdpa", "eager"], options.attention)
    runtime = Runtime(options.device, options.dtype, attention, threads=options.threads)
    family = _family(options.model, options.roles, runtime)
    for cell in cells:
        family.checkpoint(cell.checkpoint)
    sources = task_sources(
        registry, [task.name for task in tasks], options.data, built_in=family.bundled
    )
    plans = tuple(plan_task(registry, task, sources[task.name], options.limit) for task in tasks)
    return RunPlan(family, cells, plans, options.repeats, options.seed, Sampling())


def _family(model: str, roles: Sequence[str], runtime: Runtime) -> ModelFamily:
    checkpoints = parse_pairs(roles, "--role")
    find_family(model, roles=checkpoints)  # before torch is loaded: a wrong name is told at once
    return find_family(model, roles=checkpoints, runtime=runtime.resolve())


def _selections(texts: Sequence[str], option: str, known: Sequence[str]) -> list[Selection]:
    return [parse_selection(text) for text in split_selections(_required(texts, option, known))]


def _required(texts: Sequence[str], option: str, known: Sequence[str]) -> Sequence[str]:
    if not texts:
        raise UserError(f"{option} is missing; known: {', '.join(known)}")
    return texts


def _default_output(plan: RunPlan) -> Path:
    """Return a folder named after the configuration, so that the same command finds it again."""
    text = json.dumps(plan.configuration(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    tasks = "-".join(plan.task.__class__.__name__.lower() for plan in plan.tasks)
    model = plan.family.name.replace("/", "--")
    return Path("results") / f"{model}-{tasks}-{digest}"
