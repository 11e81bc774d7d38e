"""Progress bars and messages while something long runs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cllm_bench.core.printable import printable
from cllm_bench.machine.processes import is_main


def say(text: str) -> None:
    """Write a line to standard error, once where several processes were launched."""
    if is_main():
        typer.echo(printable(text), err=True)


class _Rate(ProgressColumn):
    """Items a second, or seconds an item where that reads better."""

    def render(self, task: Task) -> Text:
        """Return the rate."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("–", style="dim")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="dim")


class LiveProgress:
    """A line with what runs, how many are done, the rate and the time left.

    It is drawn only when it is told something: a thread that draws by itself would share the
    processor with what is being timed.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            speed_estimate_period=20,
        )
        self._task = self._progress.add_task("", total=None)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show what runs and how far it has come; draw at most ten times a second."""
        self._progress.update(self._task, description=what, completed=done, total=total)
        now = self._progress.get_time()
        if now - self._drawn >= 0.1 or done == total:
            self._progress.refresh()
            self._drawn = now
