"""Small databases and a small Spider folder, for the tests of Spider and of running SQL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cllm_bench.contracts import Sample, Source
from cllm_bench_tasks.spider.task import Spider

DEV = [
    {"db_id": "band", "question": "How many singers?", "query": "SELECT count(*) FROM singer"},
    {"db_id": "band", "question": " Old? ", "query": "SELECT name FROM singer WHERE age > 90;"},
    {
        "db_id": "band",
        "question": "Names and ages, oldest first.",
        "query": "SELECT DISTINCT name , age FROM singer ORDER BY age DESC",
        "sql": {"mixed": [1, "two", None]},
    },
    {"db_id": "gone", "question": "Lost?", "query": "SELECT 1"},
]
TABLES = [
    {
        "db_id": "band",
        "table_names_original": ["singer", "concert"],
        "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"], [1, "Old Name"]],
    },
    {
        "db_id": "gone",
        "table_names_original": ["lost"],
        "column_names_original": [[-1, "*"], [0, "id"]],
    },
]


def write_spider(root: Path) -> Path:
    """Make a folder in Spider's layout, whose database `gone` is absent."""
    database = root / "database" / "band" / "band.sqlite"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE singer (id INTEGER, name TEXT, age INTEGER)")
        connection.execute("CREATE TABLE concert ('Old Name' TEXT)")
        rows = [(1, "Ann", 40), (2, "Bob", 30), (3, "Cy", 20), (4, "Cy", 20)]
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", rows)
        connection.commit()
    for name, content in (("dev", DEV), ("train_spider", DEV[:2]), ("train_others", DEV[2:])):
        (root / f"{name}.json").write_text(json.dumps(content))
    (root / "tables.json").write_text(json.dumps(TABLES))
    return root


def rewrite(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return apply


def without(index: int, field: str) -> Callable[[Any], Any]:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        del entries[index][field]
        return entries

    return change


def with_value(index: int, field: str, value: object) -> Callable[[Any], Any]:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        entries[index][field] = value
        return entries

    return change


def make_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        connection.execute("CREATE INDEX by_age ON singer (age)")
        rows = [(i, f"name {i}", 20 + i % 7) for i in range(60)]
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", rows)
        connection.commit()
    return path


def source(folder: Path, **changes: Any) -> Source:
    return replace(Source("folder", folder), **changes)


def question(folder: Path, index: int, task: Spider | None = None) -> Sample:
    return (task or Spider()).samples(source(folder)).samples[index]
