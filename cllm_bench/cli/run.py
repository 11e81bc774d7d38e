"""What `run` and `table` do, once the command line has been read; other commands share parts."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer
from rich.console import Console

from cllm_bench.cli.progress import LiveProgress
from cllm_bench.contracts import Sampling
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import parse_pairs, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.runtime import Attention, Engine, Runtime, choice
from cllm_bench.errors import UserError
from cllm_bench.run.method_specs import Cell, plan_cells
from cllm_bench.run.plan import RunPlan, plan_task

if TYPE_CHECKING:
    from cllm_bench.judge.grading import Material
    from cllm_bench.judge.protocol import Judge
from cllm_bench.cli.inputs import at_least_one, build_tasks, check_sandbox, required


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
    noise_floor: bool
    temperature: float
    top_p: float
    device: str
    dtype: str
    attention: str
    engine: str
    threads: int
    unsafe: bool
    plugins: tuple[Path, ...]
    judge: str | None = None
    judge_url: str | None = None


def run_command(options: RunOptions) -> None:
    """Plan, run, summarise and show.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        Exit: With code 1, where a sample failed, or a judge was asked and a reply has no rating.
    """
    from cllm_bench.cli.judge import report
    from cllm_bench.judge.grading import judge_folder

    console = Console(stderr=True)
    plan = _plan(options)
    judging = _judging(options, plan)
    output = options.output or _default_output(plan)
    from cllm_bench.report.tables import rich_table
    from cllm_bench.run.runner import Runner

    with LiveProgress(console) as progress:
        runner = Runner(plan, output, progress)
        for warning in runner.folder.warnings:
            console.print(f"note: {warning}", style="yellow", soft_wrap=True)
        with runner.folder:
            summaries = runner.run()
            captures = plan.family.captures
            if captures.count:
                runner.folder.write_text(
                    f"captures-{runner.folder.attempt}.json", json.dumps(vars(captures)) + "\n"
                )
            if judging is not None:
                try:
                    outcome, summaries = judge_folder(runner.folder, *judging, progress)
                except UserError as error:
                    raise UserError(f"the run is stored in '{output}', but: {error}") from None
    rich_table([(runner.folder.manifest, summaries)])
    if captures.count:
        console.print(
            f"captured {captures.count} graphs in {captures.seconds:.1f} s, outside of all times"
        )
    console.print(
        f"stored in {output} (table.md, summary.json, samples.jsonl, manifest.json)", soft_wrap=True
    )
    if judging is not None:
        report(console, judging.judge, outcome, output)
    failed = sum(summary["failed"] for summary in summaries)
    if failed:
        console.print(f"{failed} samples failed: see the rows with finish=failed", style="red")
        raise typer.Exit(1)


def _plan(options: RunOptions) -> RunPlan:
    registry = Registry(options.plugins)
    at_least_one(options.repeats, "--repeats")
    at_least_one(options.limit, "--limit")
    methods = [
        parse_selection(text)
        for text in required(options.methods, "--method", registry.methods.names())
    ]
    sampling = _sampling(options)
    cells = plan_cells(registry, methods, sampling, again=options.noise_floor)
    tasks = build_tasks(registry, options.tasks)
    attention = choice("attention", options.attention, Attention)
    checkpoints = parse_pairs(options.roles, "--role")
    # Before torch is loaded, so that a wrong name is told at once.
    threads = options.threads or find_family(options.model, roles=checkpoints).threads
    engine = choice("engine", options.engine, Engine)
    runtime = Runtime(options.device, options.dtype, attention, engine, threads).resolve()
    family = find_family(options.model, roles=checkpoints, runtime=runtime)
    _check_roles(registry, family, cells, options)
    sources = task_sources(registry, list(tasks), options.data, built_in=family.built_in)
    plans = tuple(
        plan_task(name, task, sources[name], options.limit, sampling)
        for name, task in tasks.items()
    )
    sandbox = check_sandbox(list(tasks.values()), allowed=options.unsafe)
    return RunPlan(family, cells, plans, options.repeats, options.seed, sampling, sandbox)


class _Judging(NamedTuple):
    """Who judges a run, and what."""

    judge: Judge
    material: Mapping[str, Material]


def _judging(options: RunOptions, plan: RunPlan) -> _Judging | None:
    """Find the judge that the options name, before anything is measured.

    Raises:
        UserError: There is no such judge, or nothing to judge.
    """
    if options.judge is None:
        if options.judge_url is not None:
            raise UserError("--judge-url is given without --judge, the name of the model there")
        return None
    from cllm_bench.cli.judge import find_judge, material_of

    material = material_of(plan.tasks)
    registry, runtime = Registry(options.plugins), plan.family.runtime
    return _Judging(find_judge(options.judge, options.judge_url, registry, runtime), material)


def _sampling(options: RunOptions) -> Sampling:
    if not 0 <= options.temperature < math.inf:
        raise UserError(f"--temperature must be 0 (greedy) or above, not {options.temperature}")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top-p must be above 0 and at most 1, not {options.top_p}")
    if options.top_p < 1 and options.temperature == 0:
        raise UserError(f"--top-p {options.top_p} needs a --temperature above 0")
    return Sampling(options.temperature, options.top_p)


def _check_roles(
    registry: Registry, family: ModelFamily, cells: Sequence[Cell], options: RunOptions
) -> None:
    """Refuse a method whose checkpoint the family lacks, and say how to train it if a recipe can.

    Raises:
        UserError: A role is missing.
    """
    for role in dict.fromkeys(role for cell in cells for role in cell.roles):
        try:
            family.checkpoint(role)
        except UserError:
            entries = registry.recipes.entries()
            recipes = [entry.name for entry in entries if getattr(entry.cls, "role", None) == role]
            if not recipes:
                raise
            asked = ["--model", options.model, "--task", ",".join(options.tasks)]
            raise UserError(
                f"family '{family.name}' has no '{role}' checkpoint; train one: "
                f"`cllm-bench train {recipes[0]} {shlex.join(asked)} --output DIR`, "
                f"or name one with --role {role}=PATH_OR_HUB_ID"
            ) from None


def _default_output(plan: RunPlan) -> Path:
    """Return a folder named after the configuration, so that the same command finds it again."""
    text = json.dumps(plan.configuration(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    tasks = "-".join(plan.task.__class__.__name__.lower() for plan in plan.tasks)
    model = plan.family.name.replace("/", "--")
    return Path("results") / f"{model}-{tasks}-{digest}"
