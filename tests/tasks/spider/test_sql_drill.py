"""SQL that nobody has read must neither harm, nor hang, nor stop the queries after it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from sql_running import FOREVER, GOLD, SECONDS, outcome

from cllm_bench_tasks.spider.grading import Grading, execution_match
from cllm_bench_tasks.spider.sql_runner import Rows, SqlRunner

# The limit, the parent's grace, and the start of another worker on a machine that is busy.
LONGEST_SECONDS = 5.0
GRADING = Grading(seconds=SECONDS, row_limit=1_000)
BIG = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM a LIMIT 3000) "


DRILL = {
    "insert": ("INSERT INTO singer VALUES (99, 'x', 1)", "forbidden"),
    "update": ("UPDATE singer SET age = 1", "forbidden"),
    "delete": ("DELETE FROM singer", "forbidden"),
    "delete returning": ("DELETE FROM singer RETURNING id", "forbidden"),
    "drop": ("DROP TABLE singer", "forbidden"),
    "create": ("CREATE TABLE other (a)", "forbidden"),
    "create as": ("CREATE TABLE other AS SELECT * FROM singer", "forbidden"),
    "create temporary": ("CREATE TEMP TABLE other (a)", "forbidden"),
    "create virtual": ("CREATE VIRTUAL TABLE other USING fts5(a)", "forbidden"),
    "create trigger": (
        "CREATE TRIGGER t AFTER INSERT ON singer BEGIN DELETE FROM singer; END",
        "forbidden",
    ),
    "replace": ("REPLACE INTO singer VALUES (1, 'x', 1)", "forbidden"),
    "alter": ("ALTER TABLE singer ADD COLUMN b", "forbidden"),
    "reindex": ("REINDEX", "forbidden"),
    "analyze": ("ANALYZE", "forbidden"),
    "begin": ("BEGIN EXCLUSIVE", "forbidden"),
    "savepoint": ("SAVEPOINT a", "forbidden"),
    "vacuum": ("VACUUM", "forbidden"),
    "vacuum into": ("VACUUM INTO '{folder}/copy.sqlite'", "forbidden"),
    "attach": ("ATTACH '{folder}/other.sqlite' AS other", "forbidden"),
    "attach memory": ("ATTACH ':memory:' AS other", "forbidden"),
    "pragma": ("PRAGMA table_info(singer)", "forbidden"),
    "pragma write": ("PRAGMA journal_mode = WAL", "forbidden"),
    "pragma lift limit": ("PRAGMA hard_heap_limit = 0", "forbidden"),
    "pragma as table": ("SELECT * FROM pragma_table_info('singer')", "forbidden"),
    "load_extension": ("SELECT load_extension('{folder}/x')", "forbidden"),
    "readfile": ("SELECT readfile('/etc/passwd')", "syntax"),
    "writefile": ("SELECT writefile('{folder}/x', 'x')", "syntax"),
    "fts3_tokenizer": ("SELECT fts3_tokenizer('simple')", "forbidden"),
    "two statements": (f"{GOLD}; {GOLD}", "syntax"),
    "hidden second": (f"{GOLD}; DROP TABLE singer", "syntax"),
    "endless count": (FOREVER.format("count(*)"), "timeout"),
    "endless text": (FOREVER.format("group_concat(x)"), None),
    "billion rows": (FOREVER.format("x"), "rows"),
    "cross join": (
        "SELECT count(*) FROM " + ", ".join(f"singer AS t{i}" for i in range(12)),
        "timeout",
    ),
    "cross join rows": ("SELECT * FROM singer, singer AS b, singer AS c", "rows"),
    "wide join": ("SELECT 1 FROM " + ", ".join(f"singer AS t{i}" for i in range(64)), None),
    "exponential views": (
        "WITH a0 AS (SELECT 1 AS c), "
        + ", ".join(f"a{i} AS (SELECT x.c FROM a{i - 1} x, a{i - 1} y)" for i in range(1, 40))
        + " SELECT count(*) FROM a39",
        None,
    ),
    "zeroblob": ("SELECT zeroblob(2000000000)", "size"),
    "printf": ("SELECT length(printf('%.*c', 2000000000, 'x'))", None),
    "hex": ("SELECT hex(zeroblob(1000000))", "size"),
    "replace function": (
        "SELECT replace(hex(zeroblob(500000)), '0', '000000000000')",
        "size",
    ),
    "sorter": (BIG + "SELECT randomblob(900000) AS b FROM a ORDER BY b", None),
    "distinct": (BIG + "SELECT count(*) FROM (SELECT DISTINCT randomblob(900000) FROM a)", None),
    "big result": (BIG + "SELECT hex(zeroblob(400000)) FROM a", "size"),
    # Steps so long that the progress handler has no turn: the parent must kill.
    "instr": ("SELECT instr(hex(zeroblob(500000)), hex(zeroblob(200000)) || '1')", "timeout"),
    "like": (f"SELECT hex(zeroblob(400000)) || 'x' LIKE '%{'%0_' * 8000}1'", None),
    "glob": (f"SELECT hex(zeroblob(400000)) || 'x' GLOB '*{'*[0]?' * 5000}1'", None),
    "null character": ("SELECT '\0'", "syntax"),
    "null character after": (f"{GOLD}\0", "syntax"),
    "lone surrogate": ("SELECT '\udcff'", "syntax"),
    "megabyte": (f"SELECT '{'x' * 1_000_000}'", "size"),
    "deep parentheses": ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, "syntax"),
    "deep subqueries": ("SELECT " + "(SELECT " * 2_000 + "1" + ")" * 2_000, "syntax"),
    "deep expression": ("SELECT " + "1+" * 20_000 + "1", "syntax"),
    "deep not": ("SELECT " + "NOT " * 20_000 + "1", "syntax"),
    "parameter": ("SELECT ?", "syntax"),
    "empty": ("", "syntax"),
    "comment": ("-- nothing", "syntax"),
    "prose": ("I cannot answer that.", "syntax"),
    "unknown table": ("SELECT * FROM nothing", "syntax"),
}


@pytest.mark.parametrize(("template", "reason"), DRILL.values(), ids=DRILL.keys())
def test_drill(database: Path, runner: SqlRunner, template: str, reason: str | None) -> None:
    folder = database.parent
    sql = template.replace("{folder}", str(folder))
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    begin = time.monotonic()
    # A second grading of the same query would only double the time.
    if reason is None:
        assert not execution_match(database, GOLD, sql, GRADING)
    else:
        assert outcome(runner, database, sql) == reason
    assert time.monotonic() - begin < LONGEST_SECONDS
    assert runner.run(database, GOLD) == Rows(((60,),))
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert os.listdir(folder) == [database.name]


@pytest.mark.parametrize(
    "name", [name for name, (_, reason) in DRILL.items() if reason not in (None, "timeout")]
)
def test_drill_is_graded_wrong(database: Path, name: str) -> None:
    # `hidden second` and `two statements` reach this point only when no reply was cut before.
    assert not execution_match(database, GOLD, DRILL[name][0], GRADING)
