"""Grades a predicted query by what it returns, beside what the reference query returns."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from cllm_bench.errors import UserError

from .sql_match import order_matters, prepared, results_equal
from .sql_runner import Reason, Row, SqlError, SqlRunner

_REMEDIES: dict[Reason, str] = {
    "timeout": "raise the setting 'seconds'",
    "rows": "raise the setting 'row_limit'",
}


class Grading(NamedTuple):
    """What decides a grade beside the two queries.

    Attributes:
        seconds: Wall-clock limit of one query.
        row_limit: The largest result; a prediction with a larger one is wrong.
        keep_distinct: Leave DISTINCT in both queries; the official default removes it.
    """

    seconds: float = 10.0
    row_limit: int = 100_000
    keep_distinct: bool = False


def execution_match(database: Path, gold: str, prediction: str, grading: Grading) -> bool:
    """Tell whether a predicted query returns what the reference query returns.

    A prediction that fails, or that meets a limit, is wrong.

    Raises:
        UserError: The reference query itself does not run here, so that nothing can be graded.
    """
    expected = gold_rows(database, gold, grading)
    try:
        sql = prepared(prediction, keep_distinct=grading.keep_distinct)
    except ValueError:
        return False
    found = _runner(grading.seconds, grading.row_limit).run(database, sql)
    if isinstance(found, SqlError):
        return False
    ordered = order_matters(prepared(gold, keep_distinct=grading.keep_distinct))
    return results_equal(expected, found.rows, ordered=ordered)


@functools.lru_cache(maxsize=2048)  # the same for every method, repeat and checkpoint of a run
def gold_rows(database: Path, gold: str, grading: Grading) -> tuple[Row, ...]:
    """Return the rows of a reference query.

    Raises:
        UserError: It does not run here.
    """
    sql = prepared(gold, keep_distinct=grading.keep_distinct)
    found = _runner(grading.seconds, grading.row_limit).run(database, sql)
    if isinstance(found, SqlError):
        remedy = _REMEDIES.get(found.reason, "check that the database is the data set's own")
        raise UserError(
            f"the reference query `{gold}` does not run on {database}: "
            f"{found.reason}, {found.message}; {remedy}"
        )
    return found.rows


@functools.lru_cache(maxsize=4)
def _runner(seconds: float, row_limit: int) -> SqlRunner:
    return SqlRunner(seconds, row_limit)
