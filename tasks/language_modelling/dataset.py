"""Reads texts of public data sets: from a folder in official layout, or from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cllm_bench.contracts import Source, Split
from cllm_bench.core.files import reading, reading_hub
from cllm_bench.errors import UserError


class Corpus(NamedTuple):
    """A data set whose splits are texts in lines.

    Attributes:
        name: As tables show it.
        file: The official name of a split's file, with `{split}` in it.
        parquet: Patterns of the same in a clone of the Hub's repository, with `{split}`.
        column: Of the rows there.
        line: Gives a line of the file, its end included, the form that it has as a row.
        between: What rows are joined by into one text.
        others: Names of files that belong to another version of the data, and what that is.
        remedy: Where to get it.
    """

    name: str
    file: str
    parquet: tuple[str, ...]
    column: str
    line: Callable[[str], str]
    between: str
    others: tuple[tuple[str, str], ...]
    remedy: str


def read_folder(corpus: Corpus, source: Source) -> tuple[str, ...]:
    """Read the rows of one split from the data set's own folder.

    Raises:
        UserError: The folder is not this data set, or a file is empty or damaged.
    """
    folder = source.path
    if folder is None or not folder.is_dir():
        raise UserError(f"no folder '{folder}'; {corpus.remedy}")
    file = folder / corpus.file.format(split=source.split)
    if file.is_file():
        return _checked(file, [corpus.line(line) for line in _lines(file)])
    for pattern in corpus.parquet:
        files = sorted(folder.glob(pattern.format(split=source.split)))
        if files:
            rows = [row for each in files for row in _parquet_rows(each, corpus.column)]
            return _checked(files[0], [corpus.line(row) for row in rows])
    raise UserError(f"'{folder}' {_lacking(corpus, folder, source.split)}; {corpus.remedy}")


def read_hub(corpus: Corpus, load: Callable[[], Any]) -> tuple[str, ...]:
    """Read the rows of one split from the Hub, or from what `datasets` keeps of it.

    Args:
        corpus: The data set.
        load: Calls `datasets.load_dataset`.

    Raises:
        UserError: It cannot be had, or is not what it was.
    """
    with reading_hub(corpus.name, corpus.remedy):
        rows = list(load()[corpus.column])
    return _checked(Path(f"hub:{corpus.name}"), [corpus.line(row) for row in rows])


def _lines(file: Path) -> Sequence[str]:
    """Return the lines with their ends; other separators than the file's own stay within them."""
    with reading(file):
        data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file} line {line}: no UTF-8; fetch the file again") from None
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def _parquet_rows(file: Path, column: str) -> Sequence[str]:
    import pandas

    try:
        rows = pandas.read_parquet(file, columns=[column])[column].tolist()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read '{file}': {reason}; it must have a column '{column}'"
        ) from None
    for index, row in enumerate(rows):
        if not isinstance(row, str):
            raise UserError(
                f"{file} row {index}: {row!r:.60} instead of text; fetch the file again"
            )
    return rows


def _checked(file: Path, rows: Sequence[str]) -> tuple[str, ...]:
    if not any(row.strip() for row in rows):
        raise UserError(f"'{file}' is empty: it must hold a text; fetch the file again")
    return tuple(rows)


def _lacking(corpus: Corpus, folder: Path, split: Split) -> str:
    for name, what in corpus.others:
        if (folder / name.format(split=split)).is_file():
            return f"holds {what} and not {corpus.name}"
    return f"is no folder of {corpus.name}: it has no {corpus.file.format(split=split)}"
