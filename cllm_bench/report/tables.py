"""Stored figures as tables: Markdown for files, and the same for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cllm_bench.report.columns import MAIN, Column, Line, Run, mechanism_columns
from cllm_bench.report.notes import conditions, legend, notes, subtitle

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    *("Grid", "Run", "Section", "comparison_table", "markdown_table", "rich_table", "sections"),
]


@dataclass(frozen=True)
class Grid:
    """The lines of one table, and its columns."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def cells(self) -> list[list[str]]:
        """The texts, by line and column."""
        return [[column.text(line) for column in self.columns] for line in self.lines]

    def narrowed(self, width: int) -> Grid:
        """Leave out the least important columns until the rest fits, or only the main ones stay."""
        columns = list(self.columns)
        while True:
            table = Grid(tuple(columns), self.lines)
            least = max(columns, key=lambda column: column.rank)
            if table._terminal_width() <= width or not least.rank:
                return table
            columns.remove(least)

    def _terminal_width(self) -> int:
        widths = [
            max(map(len, (*_words(column.title), *texts)))
            for column, texts in zip(self.columns, zip(*self.cells, strict=True), strict=True)
        ]
        return sum(widths) + 2 * len(widths)


@dataclass(frozen=True)
class Section:
    """What a report says about one task.

    Attributes:
        task: Its label.
        subtitle: What was asked and how it was graded.
        main: Speed and quality.
        mechanism: How the passes went, of the methods of which there is something to say.
        notes: What a reader of the figures must know.
    """

    task: str
    subtitle: str
    main: Grid
    mechanism: Grid | None
    notes: list[str]


def comparison_table(runs: Sequence[Run]) -> str:
    """Return the tables of one run or several as Markdown, readable as plain text too.

    Args:
        runs: For each run its manifest and its summaries. Methods that several runs measured on one
            task stand in one table.
    """
    parts = ["# cllm-bench results"]
    for section in sections(runs):
        parts += [f"## {section.task}", section.subtitle, markdown_table(section.main)]
        if section.mechanism:
            parts += ["How the passes went:", markdown_table(section.mechanism)]
        if section.notes:
            parts.append("\n".join(["Notes:", "", *(f"- {note}" for note in section.notes)]))
    parts += ["## How to read this", legend(runs)]
    parts += ["## Conditions", "\n".join(f"- {line}" for line in conditions(runs))]
    return "\n\n".join(parts) + "\n"


def rich_table(runs: Sequence[Run], *, width: int | None = None) -> None:
    """Print the same tables on a terminal, with as many columns as it has room for.

    Args:
        runs: For each run its manifest and its summaries.
        width: Of the terminal; None asks it.
    """
    from rich.console import Console

    console = Console(width=width, highlight=False)
    for section in sections(runs):
        console.print(f"\n[bold]{_plain(section.task)}[/]  {_plain(section.subtitle)}")
        hidden = _print_table(console, section.main)
        if section.mechanism:
            hidden += _print_table(console, section.mechanism)
        if hidden:
            console.print(f"[dim]More in table.md or on a wider terminal: {', '.join(hidden)}[/]")
        for note in section.notes:
            console.print(f"[yellow]•[/] {_plain(note)}")
    console.print(f"\n[dim]{_plain(legend(runs))}[/]")


def _print_table(console: Console, table: Grid) -> list[str]:
    """Print what fits; return the titles of the columns that do not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    fitting = table.narrowed(console.width)
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in fitting.columns:
        title = Text("\n".join(_words(column.title)))
        shown.add_column(title, justify="left" if column.left else "right", vertical="bottom")
    for texts in fitting.cells:
        shown.add_row(*map(Text, texts))
    console.print(shown)
    return [column.title for column in table.columns if column not in fitting.columns]


def _words(title: str) -> list[str]:
    """Split a heading where a terminal may break it."""
    return title.replace("/", "/ ").split()


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text.replace("**", "").replace("`", ""))


def sections(runs: Sequence[Run]) -> list[Section]:
    """Return what a report says about each task, in the order of the first run."""
    lines = _lines(runs)
    sections = []
    for task in dict.fromkeys(line.summary.task for line in lines):
        own = tuple(line for line in lines if line.summary.task == task)
        extra = tuple(line for line in own if _has_mechanism(line))
        sections.append(
            Section(
                task=task,
                subtitle=subtitle(own),
                main=Grid(tuple(column for column in MAIN if column.wanted(own)), own),
                mechanism=Grid(mechanism_columns(extra), extra) if extra else None,
                notes=notes(own),
            )
        )
    return sections


def _has_mechanism(line: Line) -> bool:
    s = line.summary
    return bool(s.counters or s.drafted_per_pass) or s.tokens_per_pass not in (None, 1)


def _lines(runs: Sequence[Run]) -> list[Line]:
    """Return a line for each summary; the run is named by its model where that tells them apart."""
    models = [str(manifest.model) for manifest, _ in runs]
    distinct = len(set(models)) == len(models)
    kind = "model" if distinct else "run"
    return [
        Line(models[i] if distinct else str(i + 1), kind, manifest, summary)
        for i, (manifest, summaries) in enumerate(runs)
        for summary in summaries
    ]


def markdown_table(table: Grid) -> str:
    """Return a table in Markdown, its columns aligned."""
    titles = [column.title for column in table.columns]
    texts = [[text.replace("|", "\\|") for text in line] for line in table.cells]
    widths = [max(map(len, column)) for column in zip(titles, *texts, strict=True)]
    rule = [
        "-" * width if column.left else "-" * (width - 1) + ":"
        for column, width in zip(table.columns, widths, strict=True)
    ]
    rows = [titles, rule, *texts]
    return "\n".join(
        "| "
        + " | ".join(
            text.ljust(width) if column.left else text.rjust(width)
            for column, text, width in zip(table.columns, row, widths, strict=True)
        )
        + " |"
        for row in rows
    )
