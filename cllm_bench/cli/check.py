"""The commands `check-method` and `check-task`, for authors of plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cllm_bench.api.options import CheckMethodOptions, CheckTaskOptions
from cllm_bench.cli.progress import LiveProgress
from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench.testing.methods import CHECKS, CheckResult, MethodSuite
from cllm_bench.testing.tasks import TASK_CHECKS, TaskSuite

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def check_command(options: CheckMethodOptions) -> None:
    """Check that a method keeps its contract, and show how each check went.

    Raises:
        UserError: There is no such method, setting or family, or the method refuses all models.
        Exit: With code 1, where a check failed.
    """
    suite = MethodSuite(
        options.method, list(map(Path, options.plugins)), options.model, options.roles, None
    )
    _show(options.method, CHECKS, suite.result)
    refusal = suite.result("binding")
    if refusal.status == "skipped":
        raise UserError(f"nothing was decoded: {refusal.message}")


def check_task_command(options: CheckTaskOptions) -> None:
    """Check that a task keeps its contract, and show how each check went.

    Raises:
        UserError: There is no such task, setting or data.
        Exit: With code 1, where a check failed.
    """
    if options.allow_unsafe_code:
        from cllm_bench.sandbox.isolation import allow_unsafe_code

        allow_unsafe_code()
    source = None if options.data is None else Source("folder", Path(options.data))
    suite = TaskSuite(options.task, list(map(Path, options.plugins)), source)
    _show(options.task, TASK_CHECKS, suite.result)
    asked = suite.result("samples")
    if asked.status == "skipped":
        raise UserError(f"nothing was asked: {asked.message}")


def _show(title: str, checks: Collection[str], make: Callable[[str], CheckResult]) -> None:
    """Make all checks and show how each went.

    Raises:
        Exit: With code 1, where one failed.
    """
    results = []
    with LiveProgress(Console(stderr=True)) as progress:
        for index, check in enumerate(checks):
            progress(f"{title}: {check}", index, len(checks))
            results.append(make(check))
    console = Console()
    console.print(_table(title, results))
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        console.print(
            f"{result.check}: {result.message}", style="red", markup=False, soft_wrap=True
        )
    counts = [
        f"{count} {status}"
        for status in _COLOURS
        if (count := sum(result.status == status for result in results))
    ]
    console.print(f"{len(results)} checks: {', '.join(counts)}", highlight=False)
    if failed:
        raise typer.Exit(1)


def _table(title: str, results: Sequence[CheckResult]) -> Table:
    table = Table("check", "result", "note", title=title, title_justify="left")
    for check, status, message in results:
        note = "see below" if status == "failed" else message
        table.add_row(check, Text(status, _COLOURS[status]), Text(note))
    return table
