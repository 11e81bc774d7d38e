"""The official evaluator's rules, by hand and against an implementation too slow to be wrong."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
import sqlparse

from cllm_bench_tasks.spider.sql_match import (
    MAX_SQL_CHARACTERS,
    order_matters,
    prepared,
    results_equal,
    sql_in_reply,
)

Table = list[tuple[Any, ...]]


@pytest.mark.parametrize(
    ("gold", "predicted", "unordered", "ordered"),
    [
        ([], [], True, True),
        ([], [(1,)], False, False),
        ([(1,)], [], False, False),
        ([(1,)], [(1,)], True, True),
        ([(1,)], [(1.0,)], True, True),
        ([(1,)], [("1",)], False, False),
        ([("a",)], [(b"a",)], False, False),
        ([("a",)], [("A",)], False, False),
        ([(None,)], [(None,)], True, True),
        ([(None,)], [(0,)], False, False),
        ([(None,)], [("",)], False, False),
        ([(0.1 + 0.2,)], [(0.3,)], False, False),
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),
        ([(1,), (1,)], [(1,)], False, False),
        ([(1, 2)], [(1,)], False, False),
        ([(1,)], [(1, 1)], False, False),
        ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True),
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], True, False),
        # The columns agree one by one, and so do the rows as sets; together they do not.
        ([(1, "a"), (2, "b")], [(1, "b"), (2, "a")], False, False),
        ([(1, 2), (2, 3), (3, 1)], [(2, 1), (3, 2), (1, 3)], True, True),
        ([(1, 2), (2, 1), (3, 3)], [(1, 2), (2, 3), (3, 1)], False, False),
        # Only one permutation serves all rows.
        ([(1, 2), (1, 2)], [(1, 2), (2, 1)], False, False),
        # The official quick rejection sorts these cells by their text, and would call them unequal.
        ([(10, 10.5)], [(10.0, 10.5)], True, True),
    ],
)
def test_rules(gold: Table, predicted: Table, unordered: bool, ordered: bool) -> None:
    assert results_equal(gold, predicted, ordered=False) is unordered
    assert results_equal(gold, predicted, ordered=True) is ordered
    assert results_equal(predicted, gold, ordered=False) is unordered
    assert results_equal(predicted, gold, ordered=True) is ordered


def slowly_equal(gold: Table, predicted: Table, ordered: bool) -> bool:
    """Literally: some permutation of the columns makes the lists, or the multisets, equal."""
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    for permutation in itertools.permutations(range(len(gold[0]))):
        rows = [tuple(row[i] for i in permutation) for row in predicted]
        if rows == gold:
            return True
        if not ordered:
            for row in gold:
                if row not in rows:
                    break
                rows.remove(row)
            else:
                return True
    return False


def random_pair(rng: random.Random) -> tuple[Table, Table]:
    cells = rng.choice(([0, 1], [0, 1, 1.0, "1", None], list("abc"), list(range(20))))
    width, height = rng.randint(1, 4), rng.randint(0, 5)
    gold = [tuple(rng.choice(cells) for _ in range(width)) for _ in range(height)]
    permutation = rng.sample(range(width), width)
    predicted = [tuple(row[i] for i in permutation) for row in gold]
    if rng.random() < 0.5:
        rng.shuffle(predicted)
    if predicted and rng.random() < 0.6:
        # Two cells of one column change places: the columns still hold the same cells.
        rows = [list(row) for row in predicted]
        column, (one, other) = rng.randrange(width), rng.choices(range(height), k=2)
        rows[one][column], rows[other][column] = rows[other][column], rows[one][column]
        predicted = [tuple(row) for row in rows]
    if predicted and rng.random() < 0.2:
        predicted[0] = tuple(rng.choice(cells) for _ in range(width))
    return gold, predicted


@pytest.mark.parametrize("ordered", [False, True])
def test_against_all_permutations(ordered: bool) -> None:
    rng = random.Random(20240503)
    verdicts = []
    for _ in range(4_000):
        gold, predicted = random_pair(rng)
        verdict = results_equal(gold, predicted, ordered=ordered)
        assert verdict is slowly_equal(gold, predicted, ordered), (gold, predicted)
        verdicts.append(verdict)
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9  # both answers were put to the test


def test_many_columns_take_little_time() -> None:
    rng = random.Random(7)
    begin = time.monotonic()
    equal_columns = [(i % 3,) * 40 for i in range(200)]
    assert results_equal(equal_columns, equal_columns[::-1], ordered=False)
    # Every column holds the same cells, so that only the rows can tell them apart.
    latin = [tuple((i * j) % 41 for j in range(1, 41)) for i in range(41)]
    columns = rng.sample(range(40), 40)
    shuffled = [tuple(row[i] for i in columns) for row in rng.sample(latin, len(latin))]
    assert results_equal(latin, shuffled, ordered=False)
    first = list(shuffled[0])
    first[0], first[1] = first[1], first[0]
    assert not results_equal(latin, [tuple(first), *shuffled[1:]], ordered=False)
    flags = [tuple(rng.randint(0, 1) for _ in range(12)) for _ in range(500)]
    assert results_equal(flags, [row[::-1] for row in rng.sample(flags, 500)], ordered=False)
    long = [(i, i % 7, str(i % 11), i % 2) for i in range(50_000)]
    assert results_equal(long, [row[::-1] for row in long[::-1]], ordered=False)
    assert time.monotonic() - begin < 10  # alone, half a second


@pytest.mark.parametrize(
    ("sql", "without", "kept"),
    [
        ("SELECT a FROM b WHERE c > = 1", "SELECT a FROM b WHERE c >= 1", None),
        ("SELECT a WHERE c < = 1 OR c ! = 2", "SELECT a WHERE c <= 1 OR c != 2", None),
        ("SELECT DISTINCT a FROM b", "SELECT  a FROM b", "SELECT DISTINCT a FROM b"),
        ("SELECT count(distinct a)", "SELECT count( a)", "SELECT count(distinct a)"),
        ("SELECT 'DISTINCT', \"distinct\" FROM b", None, None),
        ("SELECT distinction FROM b", None, None),
        ("SELECT YEAR(CURDATE()) - age", "SELECT 2020 - age", None),
        ("SELECT year ( curdate ( ) ) AND 1", "SELECT 2020 AND 1", None),
        ("SELECT 'unfinished", None, None),
        ("", None, None),
        ("SELECT '\ud800\0'", None, None),
    ],
)
def test_preparation(sql: str, without: str | None, kept: str | None) -> None:
    expected = sql if without is None else without
    assert prepared(sql) == expected
    assert prepared(sql, keep_distinct=True) == (expected if kept is None else kept)


def test_preparation_removes_what_sqlparse_calls_distinct() -> None:
    sql = (
        "SELECT DISTINCT T1.a, count(DISTINCT T2.b) FROM x AS T1 JOIN y AS T2 ON T1.c = T2.c "
        "WHERE T1.d LIKE '%distinct%' GROUP BY T1.a HAVING count(*) > 1 ORDER  BY T1.a -- distinct"
    )
    statement: Any = sqlparse.parse(sql)[0]
    tokens = [token.value for token in statement.flatten()]
    assert prepared(sql) == "".join(value for value in tokens if value.lower() != "distinct")


def test_preparation_refuses_what_is_too_long() -> None:
    assert prepared("(" * 1_000) == "(" * 1_000
    with pytest.raises(ValueError, match="100001 characters"):
        prepared("x" * (MAX_SQL_CHARACTERS + 1))


@pytest.mark.parametrize(
    ("sql", "matters"),
    [
        ("SELECT a FROM b ORDER BY a", True),
        ("select a from b order by a limit 1", True),
        ("SELECT a FROM (SELECT a FROM b ORDER BY a)", True),
        ("SELECT 'order by' FROM b", True),  # as the official evaluator has it
        ("SELECT a FROM b ORDER  BY a", False),  # likewise
        ("SELECT a FROM border", False),
    ],
)
def test_order_matters(sql: str, matters: bool) -> None:
    assert order_matters(sql) is matters


@pytest.mark.parametrize(
    ("reply", "sql"),
    [
        (" SELECT 1", "SELECT 1"),
        ("SELECT 1;", "SELECT 1"),
        ("SELECT 1; DROP TABLE a", "SELECT 1"),
        (" ; SELECT 1", "SELECT 1"),
        ("SELECT ';' FROM a; x", "SELECT ';' FROM a"),
        ("SELECT 'it''s; a' ; x", "SELECT 'it''s; a'"),
        ('SELECT "a;b" ; x', 'SELECT "a;b"'),
        ("SELECT `a;b`, [c;d] ; x", "SELECT `a;b`, [c;d]"),
        ("SELECT 1 -- it's; one\n + 1; x", "SELECT 1 -- it's; one\n + 1"),
        ("SELECT 1 /* ; ' */ + 1; x", "SELECT 1 /* ; ' */ + 1"),
        ("SELECT 'unfinished; x", "SELECT 'unfinished; x"),
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("```SQL\r\nSELECT 1\n```\nThis returns 1.", "SELECT 1"),
        ("```\nSELECT 1\n```", "SELECT 1"),
        ("```SELECT 1```", "SELECT 1"),
        ("``` sql SELECT 1```", "SELECT 1"),
        ("Here it is:\n```sqlite\nSELECT\n  1\n```", "SELECT\n  1"),
        ("SELECT 1\n```\nexplained", "SELECT 1"),
        ("```sql\nSELECT 1", "SELECT 1"),
        ("SELECT 1\n### Instruction: SELECT 2", "SELECT 1"),
        ("\n###", ""),
        ("", ""),
        (";;", ""),
    ],
)
def test_sql_in_reply(reply: str, sql: str) -> None:
    assert sql_in_reply(reply, ("\n###",)) == sql


@pytest.mark.parametrize("unit", ["'", "/*", "[", "--", "```", ";", '"', "` [' "])
def test_sql_in_reply_is_linear(unit: str) -> None:
    begin = time.monotonic()
    sql_in_reply(unit * 100_000)
    assert time.monotonic() - begin < 2
