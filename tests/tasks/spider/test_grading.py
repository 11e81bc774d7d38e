"""Spider's grades: what is right, limits, and references that do not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sql_fixtures import question, source

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.spider.task import Spider


@pytest.mark.parametrize(
    ("index", "reply", "score"),
    [
        (0, " select count(id) from singer", 1.0),
        (0, "SELECT 4.0;", 1.0),
        (0, "```sql\nSELECT count(*)\nFROM singer;\n```\nIt counts.", 1.0),
        (0, "SELECT 4\n### Instruction:\nTranslate", 1.0),
        (0, "SELECT 4\nquestion: and now?", 1.0),
        (0, "SELECT 4; DROP TABLE singer", 1.0),  # only the first statement ever runs
        (0, "DROP TABLE singer; SELECT 4", 0.0),
        (0, "SELECT '4'", 0.0),
        (0, "SELECT 3", 0.0),
        (0, "SELECT nothing FROM nowhere", 0.0),
        (0, "DELETE FROM singer", 0.0),
        (0, "", 0.0),
        (0, "I do not know.", 0.0),
        (0, "SELECT '\ud800\0'", 0.0),
        (0, "x" * 1_000_000, 0.0),
        (1, "SELECT id FROM singer WHERE age > = 91", 1.0),
        (1, "SELECT id FROM singer", 0.0),
        (2, "SELECT age, name FROM singer ORDER BY age DESC", 1.0),
        (2, "SELECT DISTINCT age, name FROM singer ORDER BY age DESC", 1.0),
        (2, "SELECT name, age FROM singer ORDER BY age", 0.0),
        (2, "SELECT name FROM singer ORDER BY age DESC", 0.0),
    ],
)
def test_score(folder: Path, index: int, reply: str, score: float) -> None:
    assert Spider().score(question(folder, index), [reply]) == score


def test_keep_distinct(folder: Path) -> None:
    task = Spider(keep_distinct=True)
    sample = question(folder, 2, task)
    assert task.score(sample, [sample.reference]) == 1.0
    assert task.score(sample, ["SELECT name, age FROM singer ORDER BY age DESC"]) == 0.0
    assert any("DISTINCT" in note for note in task.samples(source(folder)).notes)


def test_limits_reach_the_query(folder: Path) -> None:
    task = Spider(seconds=0.5, row_limit=10)
    sample = question(folder, 0, task)
    assert task.score(sample, ["SELECT * FROM singer, singer, singer"]) == 0.0
    endless = "WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT 1 FROM a) SELECT count(*) FROM a"
    assert task.score(sample, [endless]) == 0.0


def test_reference_that_stops_running_is_an_error_and_not_a_zero(folder: Path) -> None:
    sample = question(folder, 0)
    broken = replace(sample, data={**sample.data, "sql": "SELECT x FROM singer"})
    with pytest.raises(UserError, match="does not run"):
        Spider().score(broken, ["SELECT x FROM singer"])


def test_limit_that_a_reference_meets_names_the_setting(folder: Path) -> None:
    with pytest.raises(UserError, match="raise the setting 'row_limit'"):
        Spider(row_limit=3).samples(source(folder))


def test_real_dev_gold_against_gold(real_spider: Path) -> None:
    task = Spider()
    found = task.samples(Source("folder", real_spider))
    left_out = sum(map(len, found.left_out.values()))
    if left_out == 0:
        pytest.skip("this copy of Spider is complete, and its figures are not known here")
    assert list(found.left_out) == ["database 'wta_1' is not in the folder"]
    assert (len(found.samples), left_out) == (972, 62)
    assert found.notes[0].startswith("49 of 972 reference queries return no rows")
    assert sum(task.score(sample, [sample.reference]) for sample in found.samples) == 972
    # The next question is often the same one in other words; the fourth on never is.
    rotated = (*found.samples[4:], *found.samples[:4])
    pairs = zip(found.samples, rotated, strict=True)
    assert sum(task.score(sample, [other.reference]) for sample, other in pairs) < 97
