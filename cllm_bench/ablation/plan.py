"""What an ablation will do, checked before any of it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cllm_bench.ablation.variants import Variant, combinations, expand, following, parse_vary
from cllm_bench.cli.progress import LiveProgress
from cllm_bench.cli.run import at_least_one, build_tasks, check_sandbox, required
from cllm_bench.cli.train import ask_recipe, family_to_train
from cllm_bench.contracts import Listen, SampleSet, Sampling, Task, TrainingJob
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, as_dict, build, label, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import ModelFamily
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import environment
from cllm_bench.machine.processes import world_size
from cllm_bench.run.method_specs import Cell, plan_cells
from cllm_bench.run.plan import TaskPlan, plan_task


@dataclass(frozen=True)
class AblateOptions:
    """The options of `ablate`, as given."""

    recipe: str
    vary: tuple[str, ...]
    grid: bool
    method: str | None
    tasks: tuple[str, ...]
    model: str
    roles: tuple[str, ...]
    data: tuple[str, ...]
    limit: int | None
    repeats: int
    output: Path
    device: str
    threads: int
    unsafe: bool
    plugins: tuple[Path, ...]


@dataclass(frozen=True)
class Ablation:
    """All that an ablation will do, checked before any of it is done.

    Attributes:
        name: Of the recipe.
        variants: The base first.
        methods: How each is decoded, by label.
        family: What the recipe starts from, with a runtime to train in.
        material: The tasks with their training questions.
        tests: The tasks with the questions that will be asked.
        sandbox: What holds where a task runs what models write, ready for JSON; else None.
        registry: Where the methods come from.
        options: As given.
    """

    name: str
    variants: tuple[Variant, ...]
    methods: Mapping[str, Selection]
    family: ModelFamily
    material: Mapping[str, tuple[Task, SampleSet]]
    tests: tuple[TaskPlan, ...]
    sandbox: Mapping[str, Any] | None
    registry: Registry
    options: AblateOptions

    def job(self, variant: Variant, listen: Listen) -> TrainingJob:
        """Return a variant's training; models that it loads go with it."""
        return TrainingJob(replace(self.family), self.material, self.folder(variant), listen)

    def folder(self, variant: Variant) -> Path:
        """Return the family directory that a variant's training leaves."""
        return self.options.output / "variants" / variant.label

    def cell(self, variant: Variant) -> str:
        """Return the label of the method that decodes with a variant's checkpoint."""
        name, _ = selection = self.methods[variant.label]
        return label(name, build(self.registry.methods.get(name), "method", selection))

    def cells(self, variants: Sequence[Variant]) -> tuple[Cell, ...]:
        """Return the run's cells for these variants, the baselines among them."""
        return plan_cells(
            self.registry, [self.methods[variant.label] for variant in variants], Sampling()
        )

    def manifest(self) -> dict[str, Any]:
        """Return what is written down before the first training."""
        return environment(self.family.runtime.device) | {
            "configuration": {
                "ablation": self.name,
                "model": self.family.name,
                "variants": {
                    variant.label: {
                        "role": variant.role,
                        "recipe": as_dict(variant.recipe),
                        "method": self.cell(variant),
                    }
                    for variant in self.variants
                },
                "tasks": {plan.label: as_dict(plan.task) for plan in self.tests},
                "limit": self.options.limit,
                "repeats": self.options.repeats,
            },
            "training_questions": {
                name: {"source": found.label, "questions": len(found.samples)}
                for name, (_, found) in self.material.items()
            },
            "sandbox": self.sandbox,
        }


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
    sandbox = check_sandbox(list(tasks.values()), allowed=options.unsafe)
    ablation = Ablation(
        name, variants, methods, family, material, tests, sandbox, registry, options
    )
    ablation.cells(variants)
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
        registry, list(tasks), options.data, built_in=family.built_in, split="train"
    )
    return {name: (task, task.samples(sources[name])) for name, task in tasks.items()}


def _test_questions(
    registry: Registry, tasks: Mapping[str, Task], options: AblateOptions, family: ModelFamily
) -> tuple[TaskPlan, ...]:
    sources = task_sources(registry, list(tasks), options.data, built_in=family.built_in)
    return tuple(
        plan_task(name, task, sources[name], options.limit, Sampling())
        for name, task in tasks.items()
    )
