"""The command `judge`, and `run` with `--judge`: another model grades the replies of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from cllm_bench.api.options import JudgeOptions
from cllm_bench.cli.progress import LiveProgress
from cllm_bench.cli.screen import show
from cllm_bench.contracts import Task
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import build, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench.judge.choice import find_judge
from cllm_bench.judge.grading import Material, Outcome, judge_folder
from cllm_bench.judge.protocol import Judge
from cllm_bench.results.folder import JUDGEMENTS, ResultFolder
from cllm_bench.results.judgements import total
from cllm_bench.results.manifest import Manifest

BUILT_IN = "built-in"  # label of every task's own sample


def judge_command(options: JudgeOptions) -> None:
    """Grade an earlier run, write its tables anew and show them.

    Raises:
        UserError: The run is not there or has nothing to judge, its questions are not those that
            are there now, or the judge refuses.
        Exit: With code 1, where a reply has no rating in the end.
    """
    if options.parallel < 1:
        raise UserError(f"--parallel must be at least 1, not {options.parallel}")
    registry = Registry(options.plugins)
    runtime = Runtime(options.device, threads=options.threads)
    judge = find_judge(options.judge, options.judge_url, registry, runtime, options.parallel)
    console = Console(stderr=True)
    run = Path(options.run)
    with ResultFolder.claim(run) as folder:
        for warning in folder.warnings:
            console.print(f"note: {warning}", style="yellow", soft_wrap=True)
        material = _material(registry, folder.manifest, options.data)
        with LiveProgress(console) as progress:
            outcome, summaries = judge_folder(folder, judge, material, progress)
    show([(folder.manifest, summaries)], [run])
    report(console, judge, outcome, run)


def report(console: Console, judge: Judge, outcome: Outcome, run: Path) -> None:
    """Say what was judged and what it cost.

    Raises:
        Exit: With code 1, where a reply has no rating in the end.
    """
    fresh = outcome.fresh
    spent = [f"{sum(each.requests for each in fresh):,} requests"]
    for counted, what in (
        (total(each.prompt_tokens for each in fresh), "tokens read"),
        (total(each.completion_tokens for each in fresh), "tokens written"),
    ):
        spent += [] if counted is None else [f"{counted:,} {what}"]
    failures = sum(each.score is None for each in fresh)
    if failures:
        spent.append(f"{failures:,} without a rating")
    console.print(
        f"judge {judge.name}: {outcome.judged:,} of {outcome.replies:,} replies have a rating; "
        f"this time {', '.join(spent)}; stored in {run / JUDGEMENTS}",
        soft_wrap=True,
        markup=False,
    )
    if outcome.stopped is not None:
        console.print(
            f"the judge was given up: {outcome.stopped}", style="red", soft_wrap=True, markup=False
        )
    if outcome.judged < outcome.replies:
        console.print("judge the run again to ask for what is missing", style="red")
        raise typer.Exit(1)


def _material(registry: Registry, manifest: Manifest, data: Sequence[str]) -> dict[str, Material]:
    """Load the questions of an earlier run again.

    Raises:
        UserError: No task of the run has a judge, or its questions are others now.
    """
    judged = [task for task in manifest.tasks if task.judged]
    if not judged:
        names = ", ".join(task.task for task in manifest.tasks)
        raise UserError(f"no task of this run is graded by a judge (it has: {names or 'none'})")
    labels = {parse_selection(task.task).name: task.task for task in judged}
    built_in = all(task.source == BUILT_IN for task in judged)
    sources = task_sources(registry, list(labels), data, built_in=built_in)
    found = {}
    for name, label in labels.items():
        task: Task = build(registry.tasks.get(name), "task", parse_selection(label))
        questions = task.samples(sources[name])
        stored = manifest.configuration["tasks"][label]
        if questions.fingerprint != stored["data"]:
            raise UserError(
                f"the questions of '{label}' ({questions.label}) are not those that the run asked; "
                f"give --data {name}=DIR with the folder that it read"
            )
        samples = {sample.id: sample for sample in questions.samples}
        found[label] = Material(task, samples)
    return found
