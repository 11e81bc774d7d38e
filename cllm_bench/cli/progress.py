"""Progress bars and messages while something long runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
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
from rich.table import Column
from rich.text import Text

from cllm_bench.core.printable import printable
from cllm_bench.machine.processes import is_main


def say(text: str) -> None:
    """Write a line to standard error, once where several processes were launched."""
    if is_main():
        typer.echo(printable(text), err=True)


EVERY = 30.0  # seconds between lines where there is no terminal
DRAWN = 0.1  # seconds between drawings on a terminal


def _rate(task: Task) -> str:
    """Return items a second, or seconds an item where that reads better."""
    speed = task.finished_speed or task.speed
    if not speed:
        return "–"
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the rate."""
        return Text(_rate(task), style="dim")


class LiveProgress:
    """What runs, how many are done, the rate and the time left.

    On a terminal that is a line that changes; elsewhere, as in a file, a new one every half minute.
    It is shown only when it is told something: a thread that draws by itself would share the
    processor with what is being timed.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn(
                "{task.description}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                markup=False,
            ),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
            speed_estimate_period=600,  # a reply of a large model takes a minute
            get_time=now,
        )
        self._task = self._progress.add_task("", total=None)
        self._now, self._shown = now, -DRAWN if console.is_terminal else now()

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
        """Show what runs and how far it has come, if the last time is long enough ago."""
        self._progress.update(self._task, description=what, completed=done, total=total)
        now = self._now()
        if self._console.is_terminal:
            if now - self._shown >= DRAWN or done == total:
                self._progress.refresh()
                self._shown = now
        elif now - self._shown >= EVERY:
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)
            self._shown = now

    def _line(self) -> str:
        (task,) = self._progress.tasks
        left = task.time_remaining
        known = "" if left is None else f", {timedelta(seconds=round(left))} left"
        return (
            f"{task.description}: {task.completed:.0f} of {task.total:.0f}, {_rate(task)}, "
            f"{timedelta(seconds=round(task.elapsed or 0))} gone{known}"
        )
