"""Limits and queries of the tests that run SQL, and what comes of a query."""

from __future__ import annotations

from pathlib import Path

from cllm_bench_tasks.spider.sql_runner import SqlError, SqlRunner

SECONDS = 0.5
GOLD = "SELECT count(*) FROM singer"
FOREVER = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a) SELECT {} FROM a"


def outcome(runner: SqlRunner, database: Path, sql: str) -> str:
    found = runner.run(database, sql)
    return found.reason if isinstance(found, SqlError) else "rows returned"
