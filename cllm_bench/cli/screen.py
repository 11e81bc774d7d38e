"""Prints what a terminal shows of runs: in its width, or whole and plain where there is none."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cllm_bench.report.columns import Run
from cllm_bench.report.screen import GAP, TaskView, fitted, screen, title_lines
from cllm_bench.report.tables import Grid

UNLIMITED = 10_000  # columns: nothing is broken or left out where no terminal shows it


def show(runs: Sequence[Run], folders: Sequence[Path], *, width: int | None = None) -> None:
    """Print verdict, tables and notes to standard output.

    Args:
        runs: For each run its manifest and its summaries.
        folders: Where they are stored.
        width: Of the terminal; None asks it.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if width is not None or not console.is_terminal:
        console.width = width or UNLIMITED
    shown = screen(runs)
    for verdict in shown.verdicts:
        text = Text(_wrapped(verdict.text, console.width))
        # The lines differ from the sentence by single line breaks in place of blanks.
        text.stylize("bold", 0, len(verdict.speed))
        console.print(text, soft_wrap=True)
    for task in shown.tasks:
        _show_task(console, task)
    console.print()
    for origin in shown.origins:
        console.print(Text(_wrapped(origin, console.width), "dim"), soft_wrap=True)
    for folder in folders:
        # Never broken, so that it can be copied.
        console.print(Text(f"all figures: {folder / 'table.md'}", "dim"), soft_wrap=True)


def _show_task(console: Console, task: TaskView) -> None:
    console.print()
    console.print(Text(_wrapped(task.heading, console.width), "bold"), soft_wrap=True)
    _print_table(console, task.table)
    for warning in task.warnings:
        text = _wrapped(f"• {warning}", console.width, "  ")
        console.print(Text(text, "yellow"), soft_wrap=True)


def _print_table(console: Console, table: Grid) -> None:
    fitting = fitted(table, console.width)
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False)
    for column in fitting.columns:
        title = Text(title_lines(column), "bold")
        shown.add_column(
            title,
            justify="left" if column.left else "right",
            vertical="bottom",
            no_wrap=True,
        )
    for texts in fitting.cells:
        shown.add_row(*map(Text, texts))
    console.print(shown, soft_wrap=True)


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
