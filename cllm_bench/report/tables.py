"""Stored figures as Markdown tables, with the verdict before and everything else behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cllm_bench.core.printable import all_printable, clipped, without_markup
from cllm_bench.report.columns import LONGEST_LABEL, MAIN, Column, Line, Run, mechanism_columns
from cllm_bench.report.notes import conditions, legend, notes, subtitle
from cllm_bench.report.provenance import command
from cllm_bench.report.verdict import verdicts

__all__ = ["Grid", "Run", "Section", "comparison_table", "lines_of", "markdown_table", "sections"]


@dataclass(frozen=True)
class Grid:
    """The lines of one table, and its columns."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def cells(self) -> list[list[str]]:
        """The texts, by line and column."""
        return [[column.text(line) for column in self.columns] for line in self.lines]


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
    runs = all_printable(list(runs))
    lines = lines_of(runs)
    parts = ["# cllm-bench results", _listed(each.markdown for each in verdicts(lines))]
    for section in sections(lines):
        parts += _paragraphs(section)
    parts += ["## How to read this", without_markup(legend(runs))]
    parts += ["## Conditions", _listed(conditions(runs))]
    parts += _to_repeat(runs)
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(lines: Sequence[Line]) -> Iterator[Section]:
    """Yield what there is to say about each task, in the order of the first run."""
    for task in dict.fromkeys(line.summary.task for line in lines):
        own = tuple(line for line in lines if line.summary.task == task)
        extra = tuple(line for line in own if _has_mechanism(line))
        yield Section(
            task=task,
            subtitle=subtitle(own),
            main=Grid(tuple(column for column in MAIN if column.wanted(own)), own),
            mechanism=Grid(mechanism_columns(extra), extra) if extra else None,
            notes=notes(own),
        )


def _paragraphs(section: Section) -> Iterator[str]:
    yield without_markup(f"## {section.task}")
    yield without_markup(section.subtitle)
    yield markdown_table(section.main)
    if section.mechanism:
        yield "How the passes went:"
        yield markdown_table(section.mechanism)
    if section.notes:
        yield f"Notes:\n\n{_listed(section.notes)}"


def _to_repeat(runs: Sequence[Run]) -> Iterator[str]:
    """Return how each run is repeated: code, in which no markup takes effect."""
    commands = list(dict.fromkeys(command(manifest) for manifest, _ in runs))
    yield "## To repeat"
    shown = "\n".join(each for each in commands if each is not None)
    if shown:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
        yield f"{fence}bash\n{shown}\n{fence}"
    if None in commands:
        which = "A run" if len(runs) > 1 else "The run"
        yield (
            f"{which} was begun by Python code; `cllm-bench run --config FOLDER/config.toml "
            "--output NEW` repeats it."
        )


def _listed(lines: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {without_markup(line)}" for line in lines)


def _has_mechanism(line: Line) -> bool:
    s = line.summary
    return bool(s.counters or s.drafted_per_pass) or s.tokens_per_pass not in (None, 1)


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Return a line for each summary; the run is named by its model where that tells them apart."""
    models = [clipped(manifest.model, LONGEST_LABEL) for manifest, _ in runs]
    distinct = len(set(models)) == len(models)
    kind = "model" if distinct else "run"
    return [
        Line(models[i] if distinct else str(i + 1), kind, manifest, summary)
        for i, (manifest, summaries) in enumerate(runs)
        for summary in summaries
    ]


def markdown_table(table: Grid) -> str:
    """Return a table in Markdown, its columns aligned; no text in it can end a cell."""
    titles = [column.title for column in table.columns]
    texts = [[without_markup(text).replace("|", "\\|") for text in line] for line in table.cells]
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
