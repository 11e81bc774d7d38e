"""The command `validate`: grades the reference answers with each task's own grader."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console

from cllm_bench.api.inputs import build_tasks, check_sandbox
from cllm_bench.api.options import ValidateOptions
from cllm_bench.cli.progress import LiveProgress, say
from cllm_bench.contracts import Sample, SampleSet, Task, TextTask
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import split_selections
from cllm_bench.data.sources import task_sources

SHOWN = 5


def validate_command(options: ValidateOptions) -> None:
    """Grade every task's references and print a line each.

    Raises:
        UserError: A task does not exist or fit, is asked for twice, or has no data.
        Exit: With code 1, where a reference is not graded as right.
    """
    registry = Registry(options.plugins)
    built = build_tasks(registry, split_selections(options.tasks) or registry.tasks.names())
    sources = task_sources(registry, list(built), options.data, built_in=True)
    check_sandbox(list(built.values()), allowed=options.allow_unsafe_code, tell=say)
    console = Console(soft_wrap=True)
    wrong = 0
    with LiveProgress(Console(stderr=True)) as progress:
        for name, task in built.items():
            found = task.samples(sources[name])
            if isinstance(task, TextTask):
                _report_text(console, name, found, task.text(sources[name]).content)
                continue
            failed, graded = [], 0
            for index, sample in enumerate(found.samples):
                progress(name, index, len(found.samples))
                grade = _grade(task, sample)
                graded += grade is not None
                if grade not in (None, task.best_score):
                    what = grade if isinstance(grade, str) else f"scored {grade:g}"
                    failed.append(f"{sample.id}: {what}")
            wrong += len(failed)
            _report(console, name, found, failed, graded)
    if wrong:
        raise typer.Exit(1)


def _grade(task: Task, sample: Sample) -> float | str | None:
    """Return the score of a reference, None where it has none, or what went wrong."""
    try:
        return task.score(sample, [sample.reference])
    except Exception as error:  # a broken grader is what this command is there to find
        return f"{type(error).__name__}: {error}"


def _report(
    console: Console, name: str, found: SampleSet, failed: Sequence[str], graded: int
) -> None:
    right = f"references graded right: {graded - len(failed)} of {graded}"
    text = right if graded else f"{len(found.samples)} questions, whose replies are not graded"
    console.print(f"{name} ({found.label}): {text}; template {found.template}")
    for problem in failed[:SHOWN]:
        console.print(f"  wrong: {problem}", style="red")
    if len(failed) > SHOWN:
        console.print(f"  … and {len(failed) - SHOWN} more", style="red")
    _report_data(console, found)


def _report_text(console: Console, name: str, found: SampleSet, content: str) -> None:
    """Say what there is to score: of a perplexity there is no right answer."""
    console.print(
        f"{name} ({found.label}): a text of {len(content.split()):,} words in {len(content):,} "
        f"characters; {len(found.samples)} passages to continue; template {found.template}"
    )
    _report_data(console, found)


def _report_data(console: Console, found: SampleSet) -> None:
    for reason, ids in found.left_out.items():
        console.print(f"  left out, {reason}: {len(ids)} ({', '.join(ids)})")
    for note in found.notes:
        console.print(f"  {note}")
