"""The project's own text-to-SQL sample: small generated databases, questions and queries.

It has the tasks of Spider (Yu et al., 2018), and none of its text. Train and test ask about the
same databases, but no query and no question of one is in the other.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .grammar import normal, stream
from .rows import fill
from .schemas import Column, ForeignKey, Table, entities, table

__all__ = [
    "TEST_QUESTIONS",
    "Column",
    "ForeignKey",
    "Question",
    "Table",
    "build_databases",
    "databases",
    "questions",
    "schema",
]

TEST_QUESTIONS = 200


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a database, with the query that answers it.

    Attributes:
        id: Unique and stable within its split.
        database: The name of its database.
        text: The question.
        sql: The query.
        kind: What the query exercises, such as `join` or `between`.
    """

    id: str
    database: str
    text: str
    sql: str
    kind: str


def databases() -> tuple[str, ...]:
    """Return the names of the databases."""
    return tuple(entities())


def schema(database: str) -> tuple[Table, ...]:
    """Return a database's tables, parents before children.

    Raises:
        KeyError: There is no such database.
    """
    keys = {entity.name: entity.key for entity in entities()[database]}
    return tuple(table(entity, keys) for entity in entities()[database])


def build_databases(folder: Path) -> dict[str, Path]:
    """Write every database as an SQLite file into a folder, in place of any that is there.

    Each file appears whole or not at all; its contents are the same on every machine.

    Returns:
        The path of each database's file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for database in databases():
        path = folder / f"{database}.sqlite"
        part = folder / f".{database}.{os.getpid()}.part"
        part.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(part)) as connection:
                # A half-written file is thrown away, so nothing need survive a power cut.
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("PRAGMA journal_mode = OFF")
                fill(connection, database)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        paths[database] = path
    return paths


def questions(split: Literal["train", "test"], count: int) -> tuple[Question, ...]:
    """Return the first questions of a split.

    No query of the test occurs twice; in train a query may come back in other words. A shorter
    answer is the beginning of a longer one.
    """
    chosen: list[Question] = []
    seen: set[str] = set()
    with closing(stream(split)) as pairs:
        while len(chosen) < count:
            pair = next(pairs)
            same = normal(pair.sql) if split == "test" else normal(pair.text)
            mark = f"{pair.database}: {same}"
            if mark not in seen:
                seen.add(mark)
                name = f"{split}-{len(chosen):05d}"
                chosen.append(Question(name, pair.database, pair.text, pair.sql, pair.kind))
    return tuple(chosen)
