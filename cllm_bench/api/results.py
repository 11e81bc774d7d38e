"""Stored results as data frames and as tables; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.api.inputs import Tell
from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.report.columns import Run
from cllm_bench.report.comparison.figures import Comparison, compare_runs
from cllm_bench.report.comparison.limits import check_limits, parse_limit
from cllm_bench.report.comparison.outlines import outline_run
from cllm_bench.report.exports import csv_table, latex_tables
from cllm_bench.report.judged import find_judge_id
from cllm_bench.report.page.html import StoredRun, page
from cllm_bench.report.summary import summarise_folder
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import SUMMARY, ResultFolder
from cllm_bench.results.judgements import JudgeId
from cllm_bench.results.summary import Summary, read_summaries

if TYPE_CHECKING:
    import pandas

_TABLES: Mapping[str, Callable[[Sequence[Run]], str]] = {
    "markdown": comparison_table,
    "csv": csv_table,
    "latex": latex_tables,
}


class Results(NamedTuple):
    """Stored runs as data frames, each with a column `folder` in front.

    Attributes:
        summaries: One line for each task and method, as in `summary.json`.
        rows: One line for each sample, method and repeat, as in `samples.jsonl`.
    """

    summaries: pandas.DataFrame
    rows: pandas.DataFrame


def load_results(*folders: str | Path) -> Results:
    """Read what runs have stored, and derive the summaries from the rows.

    Of a folder whose rows were not kept, the summaries are those of its `summary.json`.

    Args:
        folders: Folders of stored runs.

    Raises:
        UserError: A folder holds no run, or its rows are damaged.
    """
    import pandas

    summaries, rows = [], []
    for folder in map(_read, folders):
        name = {"folder": str(folder.path)}
        summaries += [name | each.to_json() for each in _summaries(folder)]
        rows += [name | row.to_json() for row in folder.rows]
    return Results(pandas.DataFrame(summaries), pandas.DataFrame(rows))


def table(
    *folders: str | Path,
    judge: str | None = None,
    tell: Tell = lambda _: None,
    table_format: str = "markdown",
) -> str:
    """Return the comparison table of stored runs.

    It is made from the rows; where a folder has none, from its `summary.json`.

    Args:
        folders: Folders of stored runs.
        judge: The judge whose verdicts to show, `NAME` or `NAME@IDENTITY`; by default the latest.
        tell: A callback for remarks about the state of a folder.
        table_format: `markdown`, `csv` or `latex`.

    Raises:
        UserError: A folder holds no run, none has verdicts of that judge, several judges are meant,
            or there is no such format.
    """
    return written(read_runs(*folders, judge=judge, tell=tell), table_format)


def written(runs: Sequence[Run], table_format: str) -> str:
    """Return the comparison table of runs in a format: `markdown`, `csv` or `latex`.

    Raises:
        UserError: There is no such format.
    """
    write = _TABLES.get(table_format)
    if write is None:
        raise UserError(
            f"no table format named '{table_format}'; {did_you_mean(table_format, _TABLES)}"
        )
    return write(runs)


def read_runs(
    *folders: str | Path, judge: str | None = None, tell: Tell = lambda _: None
) -> list[Run]:
    """Return the manifests of stored runs, and what their rows say; as for `table`.

    Raises:
        UserError: As for `table`.
    """
    return [(run.manifest, run.summaries) for run in stored_runs(folders, judge, tell)]


def report(*folders: str | Path, judge: str | None = None, tell: Tell = lambda _: None) -> str:
    """Return a page of HTML about stored runs: verdict, figures, pictures, replies, conditions.

    It needs no other file and no network, and runs no script.

    Args:
        folders: Folders of stored runs.
        judge: The judge whose verdicts to show, `NAME` or `NAME@IDENTITY`; by default the latest.
        tell: A callback for remarks about the state of a folder.

    Raises:
        UserError: As `table`.
    """
    return page(stored_runs(folders, judge, tell))


def stored_runs(
    folders: Sequence[str | Path], judge: str | None = None, tell: Tell = lambda _: None
) -> list[StoredRun]:
    """Read runs and derive their summaries, as `table` and `report` do.

    Raises:
        UserError: As `table`.
    """
    read = [_read(path) for path in folders]
    judgements = [each for folder in read for each in folder.judgements]
    chosen = None if judge is None else find_judge_id(judge, judgements)
    for folder in read:
        for warning in folder.warnings:
            tell(f"note: {warning}")
        if _without_rows(folder):
            tell(f"note: '{folder.path}' has no rows; the table is made from its {SUMMARY}")
    return [
        StoredRun(
            name=str(folder.path),
            manifest=folder.manifest,
            summaries=_summaries(folder, chosen),
            rows=folder.rows,
            pass_times=folder.pass_times,
        )
        for folder in read
    ]


def compare(
    a: str | Path,
    b: str | Path,
    *,
    fail_if: Sequence[str] = (),
    judge: str | None = None,
    tell: Tell = lambda _: None,
) -> Comparison:
    """Compare two stored runs, over the questions that both were asked with the same prompts.

    Args:
        a: Folder of the first run: what the second is held against.
        b: Folder of the second.
        fail_if: Limits, such as `slower:3%`, `faster:3%` or `score:1`; the comparison's `checks`
            say whether B breaks them.
        judge: The judge whose verdicts count, `NAME` or `NAME@IDENTITY`; by default the latest.
        tell: A callback for remarks about the state of a folder.

    Raises:
        UserError: A folder holds no run, a limit is none, or there is no such judge.
    """
    limits = [parse_limit(text) for text in fail_if]
    runs = outline_run(Path(a)), outline_run(Path(b))
    for run in runs:
        for warning in run.warnings:
            tell(f"note: {warning}")
        if not any(run.rows.values()):
            raise UserError(f"'{run.folder}' has no rows, and a comparison pairs rows by question")
    judgements = [each for run in runs for each in run.judgements]
    chosen = None if judge is None else find_judge_id(judge, judgements)
    found = compare_runs(*runs, chosen)
    return dataclasses.replace(found, checks=check_limits(found, limits))


def _read(path: str | Path) -> ResultFolder:
    return ResultFolder.read(Path(path))


def _summaries(folder: ResultFolder, judge: JudgeId | None = None) -> list[Summary]:
    if _without_rows(folder):
        return read_summaries(folder.path / SUMMARY)
    return summarise_folder(folder, judge)


def _without_rows(folder: ResultFolder) -> bool:
    return not folder.rows and (folder.path / SUMMARY).exists()
