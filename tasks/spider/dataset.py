"""Reads Spider in its official layout (Yu et al., EMNLP 2018): questions, schemas and databases.

The files are read with `json` and not through `datasets`, whose JSON reader serves them badly: told
to read only the three fields that matter it fails on the others (`sql` nests values of mixed
types), reading everything copies every file into the user's cache, and its error over a damaged
file names neither the file nor the question. Checked with datasets 5.2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from cllm_bench.contracts import Split
from cllm_bench.errors import UserError

REMEDY = (
    "give --data the folder of Spider 1.0 (https://yale-lily.github.io/spider) "
    "that holds dev.json, tables.json and database/"
)
_TABLES = "tables.json"
_QUESTIONS: dict[Split, tuple[str, ...]] = {
    "test": ("dev.json",),
    "train": ("train_spider.json", "train_others.json"),
}
_OPTIONAL = frozenset(("train_others.json",))


class TableText(NamedTuple):
    """A table as a prompt shows it."""

    name: str
    columns: tuple[str, ...]


class QuestionText(NamedTuple):
    """A question with its reference query.

    Attributes:
        id: The file's name and the place in it, counted from 0: `dev-0000`.
    """

    id: str
    database: str
    text: str
    sql: str


class SpiderFiles(NamedTuple):
    """One split of the data set.

    Attributes:
        questions: In the order of the files.
        tables: For each database, its tables.
        databases: Those databases whose file is there.
    """

    questions: tuple[QuestionText, ...]
    tables: dict[str, tuple[TableText, ...]]
    databases: dict[str, Path]


def read_spider(folder: Path | None, split: Split) -> SpiderFiles:
    """Read one split.

    Raises:
        UserError: The folder is not Spider, or a file of it is damaged.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"no folder '{folder}'; {REMEDY}")
    for name in (_QUESTIONS[split][0], _TABLES, "database"):
        if not (folder / name).exists():
            raise UserError(f"'{folder}' is no Spider folder: it has no {name}; {REMEDY}")
    tables = _read_tables(folder / _TABLES)
    questions = tuple(
        question
        for name in _QUESTIONS[split]
        if name not in _OPTIONAL or (folder / name).exists()
        for question in _read_questions(folder / name)
    )
    names = sorted({question.database for question in questions})
    for name in names:
        if name not in tables:
            raise UserError(f"{folder / _TABLES} has no database '{name}', which a question names")
    files = {name: folder / "database" / name / f"{name}.sqlite" for name in names}
    databases = {name: file for name, file in files.items() if file.is_file()}
    if not databases:
        raise UserError(f"'{folder / 'database'}' has no NAME/NAME.sqlite; {REMEDY}")
    return SpiderFiles(questions, tables, databases)


def _read_questions(path: Path) -> list[QuestionText]:
    return [
        QuestionText(
            id=f"{path.stem}-{index:04d}",
            database=_database_name(path, index, entry),
            text=_field(path, index, entry, "question", str).strip(),
            sql=_field(path, index, entry, "query", str).strip(),
        )
        for index, entry in enumerate(_entries(path))
    ]


def _read_tables(path: Path) -> dict[str, tuple[TableText, ...]]:
    schemas = {}
    for index, entry in enumerate(_entries(path)):
        names = _field(path, index, entry, "table_names_original", list)
        columns = _field(path, index, entry, "column_names_original", list)
        try:
            # Each column is [place of its table, name]; the first is [-1, "*"].
            schemas[_database_name(path, index, entry)] = tuple(
                TableText(
                    str(name), tuple(str(column) for owner, column in columns if owner == place)
                )
                for place, name in enumerate(names)
            )
        except (TypeError, ValueError) as error:
            raise _damaged(path, f"entry {index} has columns that are not [table, name]") from error
    return schemas


def _database_name(path: Path, index: int, entry: dict[str, Any]) -> str:
    name = str(_field(path, index, entry, "db_id", str))
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise _damaged(path, f"entry {index} has {name!r} for db_id, which names no folder")
    return name


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise _damaged(path, f"{error.msg} at {place}") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, f"no UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _damaged(path, "nested too deeply") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(content, list) or not content:
        raise _damaged(path, "not a list of entries")
    return content


def _field(path: Path, index: int, entry: Any, name: str, kind: type) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
        expected = "text" if kind is str else "list"
        raise _damaged(path, f"entry {index} has no {expected} '{name}'")
    return entry[name]


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}; fetch Spider again")
