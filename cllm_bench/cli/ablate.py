"""The command `ablate`: trains variants of a recipe and compares them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import typer
from rich.console import Console

from cllm_bench.ablation.plan import Ablation
from cllm_bench.ablation.report import ablation_table, figures
from cllm_bench.ablation.runner import evaluate, train, warn
from cllm_bench.ablation.variants import Variant, combinations, expand, following, parse_vary
from cllm_bench.api.inputs import (
    ask_recipe,
    at_least_one,
    build_tasks,
    check_sandbox,
    family_to_train,
    required,
)
from cllm_bench.api.options import AblateOptions
from cllm_bench.api.run import CONFIG
from cllm_bench.cli.progress import LiveProgress, say
from cllm_bench.contracts import SampleSet, Sampling, Task
from cllm_bench.core.options import write_config
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import ModelFamily
from cllm_bench.errors import UserError
from cllm_bench.machine.processes import world_size
from cllm_bench.measurement.plan import TaskPlan, plan_task
from cllm_bench.report.summary import summarise_folder
from cllm_bench.results.folder import AblationFolder


def plan_ablation(options: AblateOptions, console: Console) -> Ablation:
    """Check everything that can be checked before the first training. Nothing is written.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """
    if world_size() > 1:
        raise UserError("`ablate` trains and measures in one process: start it without a launcher")
    registry = Registry(options.plugins)
    at_least_one(options.repeats, "--repeats")
    at_least_one(options.limit, "--limit")
    family = family_to_train(options.model, options.roles, options.device, options.threads)
    name, cls, settings = ask_recipe(registry, family, options.recipe)
    known = [field.name for field in fields(cls) if field.init]
    factors = [parse_vary(text) for text in required(options.vary, "--vary", known)]
    variants = expand(name, cls, settings, combinations(factors, grid=options.grid))
    taken = next((variant.role for variant in variants if variant.role in family.roles), None)
    if taken is not None:
        raise UserError(f"--role {taken}=… is a name that `ablate` uses; pick another")
    varied = {key for factor in factors for changes in factor for key in changes}
    given = _method(registry, options.method, variants[0].recipe.role, name)
    methods = _methods(registry, given, variants, varied)
    tasks = build_tasks(registry, options.tasks)
    with LiveProgress(console) as progress:
        progress("reading the questions", 0, 1)
        material = _training_questions(registry, tasks, options, family)
        tests = _test_questions(registry, tasks, options, family)
    sandbox = check_sandbox(list(tasks.values()), allowed=options.allow_unsafe_code, tell=say)
    ablation = Ablation(
        name, variants, methods, family, material, tests, sandbox, registry, options
    )
    ablation.specs(variants)
    for variant in variants:
        variant.recipe.stages(ablation.job(variant, lambda *_: None))
    return ablation


def _methods(
    registry: Registry, given: Selection, variants: Sequence[Variant], varied: set[str]
) -> dict[str, Selection]:
    """Return how each variant is decoded, by label."""
    cls = registry.methods.get(given.name)
    return {
        variant.label: Selection(
            given.name,
            {
                **following(cls, given.settings, variant.recipe, varied),
                "checkpoint": variant.role,
            },
        )
        for variant in variants
    }


def _method(registry: Registry, text: str | None, role: str, recipe: str) -> Selection:
    """Return the method asked for, or the one that is named like the recipe's role."""
    if text is None:
        known = registry.methods.names()
        if role not in known:
            raise UserError(
                f"--method is missing: recipe '{recipe}' builds the role '{role}', and no method "
                f"has that name; known: {', '.join(known)}"
            )
        return Selection(role, {})
    given = parse_selection(text)
    if "checkpoint" in given.settings:
        raise UserError(f"--method {text}: `ablate` sets the checkpoint itself; leave it out")
    return given


def _training_questions(
    registry: Registry, tasks: Mapping[str, Task], options: AblateOptions, family: ModelFamily
) -> dict[str, tuple[Task, SampleSet]]:
    sources = task_sources(
        registry, list(tasks), options.data, built_in=family.description.built_in, split="train"
    )
    return {name: (task, task.samples(sources[name])) for name, task in tasks.items()}


def _test_questions(
    registry: Registry, tasks: Mapping[str, Task], options: AblateOptions, family: ModelFamily
) -> tuple[TaskPlan, ...]:
    sources = task_sources(
        registry, list(tasks), options.data, built_in=family.description.built_in
    )
    return tuple(
        plan_task(name, task, sources[name], options.limit, Sampling())
        for name, task in tasks.items()
    )


def ablate_command(options: AblateOptions) -> None:
    """Train every variant, measure all in one run, and leave the table.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        Exit: With code 1, where a sample failed. A training that collapsed is a result.
    """
    console = Console(stderr=True)
    ablation = plan_ablation(options, console)
    with AblationFolder.open(Path(options.output), ablation.manifest()) as folder:
        warn(folder, console)
        if not (folder.path / CONFIG).exists():
            folder.write_text(CONFIG, write_config(options))
        with LiveProgress(console) as progress:
            entries = train(ablation, progress, console)
            measured = evaluate(ablation, entries, progress, console)
        run = measured.manifest, summarise_folder(measured)
        rows = figures(entries, run, measured.rows)
        text = ablation_table(folder.manifest, rows, run)
        folder.write_text(
            "ablation.json", json.dumps([row.to_json() for row in rows], indent=2) + "\n"
        )
        folder.write_text("table.md", text)
    sys.stdout.write(text)
    console.print(
        f"Saved to {options.output} (table.md, ablation.json, manifest.json, config.toml, "
        "variants/, run/).",
        soft_wrap=True,
    )
    failed = sum(summary.failed for summary in run[1])
    if failed:
        console.print(f"{failed} samples failed: see the notes", style="red")
        raise typer.Exit(1)
