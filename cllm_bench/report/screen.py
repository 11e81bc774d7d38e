"""What a terminal shows of runs: the verdict, a table that fits, and the notes that matter.

Everything else is in the Markdown of `tables`. Sentences and tables are made here; the command line
prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cllm_bench.core.printable import all_printable, clipped
from cllm_bench.report.columns import LONGEST_LABEL, SCREEN, Column, Line, Run, method
from cllm_bench.report.notes import metric, sampling, warnings
from cllm_bench.report.provenance import brief_checkpoints
from cllm_bench.report.tables import Grid, lines_of
from cllm_bench.report.verdict import Verdict, verdicts
from cllm_bench.results.manifest import Manifest

GAP = 2  # blanks between two columns
LEAST_LABEL = 16  # characters of a line; longer labels are folded
LONGEST_TITLE = 8  # characters of a line of a heading, where it can be broken


@dataclass(frozen=True)
class TaskView:
    """What a terminal shows of one task.

    Attributes:
        heading: The task, what was asked and how it was graded.
        table: Its figures.
        warnings: What must be known to read them.
    """

    heading: str
    table: Grid
    warnings: list[str]


@dataclass(frozen=True)
class Screen:
    """What a terminal shows of one run or several.

    Attributes:
        verdicts: A sentence for each method and task.
        tasks: A table for each task.
        origins: For each run its model, checkpoints and device.
    """

    verdicts: list[Verdict]
    tasks: list[TaskView]
    origins: list[str]


def screen(runs: Sequence[Run]) -> Screen:
    """Return what a terminal shows.

    Args:
        runs: For each run its manifest and its summaries.
    """
    runs = all_printable(list(runs))
    lines = lines_of(runs)
    tasks = []
    for task in dict.fromkeys(line.summary.task for line in lines):
        own = tuple(line for line in lines if line.summary.task == task)
        columns = tuple(column for column in SCREEN if column.wanted(own))
        plain = [_without_marks(warning) for warning in warnings(own)]
        tasks.append(TaskView(_heading(own), Grid(columns, own), plain))
    origins = [_origin(manifest) for manifest, _ in runs]
    if len(origins) > 1:
        origins = [f"run {number}: {origin}" for number, origin in enumerate(origins, 1)]
    return Screen(verdicts(lines), tasks, origins)


def fitted(table: Grid, width: int) -> Grid:
    """Return a table that fits: intervals go first, then lines of long labels are folded.

    Where that is not enough, the least important columns go; the main ones stay in any case.

    Args:
        table: As it is on a terminal of any width.
        width: Of the terminal, in characters.
    """
    columns = list(table.columns)
    if _needed(table, LEAST_LABEL) > width:
        columns = [replace(each, text=each.brief or each.text) for each in columns]
    while _needed(Grid(tuple(columns), table.lines), LEAST_LABEL) > width:
        least = max(columns, key=lambda column: column.rank)
        if not least.rank:
            break
        columns.remove(least)
    others = _needed(Grid(tuple(columns), table.lines), 0)
    room = max(LEAST_LABEL, width - others)
    folding = [_folding(each, room) if each.text is method else each for each in columns]
    return Grid(tuple(folding), table.lines)


def title_lines(column: Column) -> str:
    """Return a heading, broken where it may be."""
    if len(column.title) <= LONGEST_TITLE:
        return column.title
    return "\n".join(column.title.replace("/", "/ ").split())


def _needed(table: Grid, label: int) -> int:
    """Return the width of a table whose labels are folded after so many characters."""
    widths = [
        max(len(line) for text in (title_lines(column), *texts) for line in text.split("\n"))
        for column, texts in zip(table.columns, zip(*table.cells, strict=True), strict=True)
    ]
    folded = [
        min(width, label) if column.text is method else width
        for column, width in zip(table.columns, widths, strict=True)
    ]
    return sum(folded) + GAP * (len(folded) - 1)


def _folding(column: Column, width: int) -> Column:
    def text(line: Line) -> str:
        return "\n".join(_folded(column.text(line), width))

    return replace(column, text=text)


def _folded(label: str, width: int) -> Iterator[str]:
    """Yield the lines of a label, broken behind a colon, a comma or a blank where that can be."""
    begin = ""
    while len(begin) + len(label) > width:
        room = width - len(begin)
        places = [place for place in range(1, room + 1) if label[place - 1] in ":, "]
        cut = places[-1] if places else room
        yield begin + label[:cut].rstrip()
        begin, label = " ", label[cut:]
    yield begin + label


def _heading(own: Sequence[Line]) -> str:
    found = []
    for line in own:
        task, chosen = line.manifest.task(line.summary.task), sampling(line.manifest)
        number = f"{task.samples:,} question{'' if task.samples == 1 else 's'}"
        found.append(f"{task.task} ({task.source}, {number}): {metric(task)}, {chosen}")
    return clipped("; ".join(dict.fromkeys(found)), 4 * LONGEST_LABEL)


def _origin(manifest: Manifest) -> str:
    runtime = manifest.runtime
    threads = (
        ""
        if runtime.device != "cpu"
        else f", {runtime.threads} thread" + ("" if runtime.threads == 1 else "s")
    )
    parts = [
        f"model {clipped(manifest.model, LONGEST_LABEL)}",
        *(clipped(each, LONGEST_LABEL) for each in brief_checkpoints(manifest)),
        f"{runtime.device} {runtime.dtype}{threads}",
    ]
    return " · ".join(parts)


def _without_marks(text: str) -> str:
    return text.replace("**", "").replace("`", "")
