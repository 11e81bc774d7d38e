"""Decides whether two SQL results are the same, as Spider's official evaluator does.

The rules are those of taoyds/test-suite-sql-eval (Zhong et al., EMNLP 2020), on one database. Three
of its quirks are left out, all of which can only fail a right answer: its quick rejection sorts the
cells of a row by their text, so that a row with 10 and 10.5 can differ from one with 10.0 and 10.5;
` value ` in a prediction becomes ` 1 `, for models that predict no literals; and the replacement of
`YEAR(CURDATE())` swallows the white space after it, which can glue `2020` to the next keyword.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

MAX_SQL_CHARACTERS = 100_000  # longer ones are no answers, only work for the lexer

_CURRENT_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)", re.IGNORECASE)
_SPLIT_OPERATORS = (("> =", ">="), ("< =", "<="), ("! =", "!="))
# Every alternative also ends at the end of the text, so that no scan is ever repeated.
_QUOTED_OR_SEMICOLON = re.compile(
    r"""'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z)"""
    r"""|--[^\n]*|/\*.*?(?:\*/|\Z)|;""",
    re.DOTALL,
)
_FENCED = re.compile(
    r"```[ \t]*(?:\w*[ \t]*\n|sql(?:ite)?\b)?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE
)
_BEGINS_QUERY = re.compile(r"\s*(?:select|with|values)\b", re.IGNORECASE)


def sql_in_reply(reply: str, stop: Sequence[str] = ()) -> str:
    """Return the SQL of a model's reply: its first statement, without the code fence around it.

    Args:
        reply: What the model wrote.
        stop: The reply ends at the first occurrence of any of these.
    """
    text = reply
    for mark in stop:
        text = text.partition(mark)[0]
    fenced = _FENCED.search(text)
    if fenced:
        before = text[: fenced.start()]
        # A fence after a query ends it; a fence after prose begins it.
        text = before if _BEGINS_QUERY.match(before) else fenced[1]
    return _first_statement(text)


def _first_statement(text: str) -> str:
    start = 0
    for match in _QUOTED_OR_SEMICOLON.finditer(text):
        if match[0] == ";":
            statement = text[start : match.start()].strip()
            if statement:
                return statement
            start = match.end()
    return text[start:].strip()


def prepared(sql: str, *, keep_distinct: bool = False) -> str:
    """Return a query, gold or predicted, as the official evaluator runs it.

    Args:
        sql: One statement.
        keep_distinct: Leave every DISTINCT in place; the official default removes them.

    Raises:
        ValueError: It has more than `MAX_SQL_CHARACTERS` characters.
    """
    if len(sql) > MAX_SQL_CHARACTERS:
        raise ValueError(f"a query of {len(sql)} characters; at most {MAX_SQL_CHARACTERS}")
    for split, whole in _SPLIT_OPERATORS:
        sql = sql.replace(split, whole)
    if not keep_distinct:
        sql = _without_distinct(sql)
    return _CURRENT_YEAR.sub("2020", sql)


def _without_distinct(sql: str) -> str:
    from sqlparse import lexer

    # The lexer alone: sqlparse's parser, which groups tokens, fails on deep nesting, and grouping
    # changes nothing about the tokens. Its types differ from release to release.
    tokenize: Any = lexer.tokenize
    return "".join(value for _, value in tokenize(sql) if value.lower() != "distinct")


def order_matters(gold: str) -> bool:
    """Tell whether rows must come in the order of the reference query's, given as it is run."""
    return "order by" in gold.lower()


def results_equal(
    gold: Sequence[Sequence[Any]], predicted: Sequence[Sequence[Any]], *, ordered: bool
) -> bool:
    """Tell whether some order of the predicted columns makes the rows equal.

    Cells are equal as Python has it: 1 equals 1.0, and neither equals '1'. Duplicate rows count.
    Two results without rows are equal, whatever their columns.

    Args:
        gold: Rows of the reference query.
        predicted: Rows of the predicted query.
        ordered: The rows must be equal as lists; else as multisets.
    """
    if len(gold) != len(predicted):
        return False
    if not gold:
        return True
    if len(gold[0]) != len(predicted[0]):
        return False
    gold_columns = list(zip(*gold, strict=True))
    predicted_columns = list(zip(*predicted, strict=True))
    if ordered:
        return Counter(gold_columns) == Counter(predicted_columns)
    return _equal_as_multisets(gold_columns, predicted_columns)


Column = tuple[Any, ...]


class _Prefix(NamedTuple):
    """Columns paired so far. Rows that agree in all of them have the same number."""

    free: frozenset[int]  # predicted columns not yet paired
    gold: list[int]  # for each row
    predicted: list[int]


def _equal_as_multisets(gold: list[Column], predicted: list[Column]) -> bool:
    """Search for the pairing of columns, depth first.

    A pairing of some columns is extended only while the rows, cut to those columns, are equal as
    multisets: exact at the end, and in practice never more than a few steps off the way.
    """
    pairs = _pairable(gold, predicted)
    if pairs is None:
        return False
    # The most telling columns first: few candidates, many different cells.
    order = sorted(range(len(gold)), key=lambda i: (len(pairs[i]), -len(set(gold[i]))))
    rows = len(gold[0])
    stack = [_Prefix(frozenset(range(len(predicted))), [0] * rows, [0] * rows)]
    while stack:
        prefix = stack.pop()
        paired = len(predicted) - len(prefix.free)
        if paired == len(order):
            return True
        index = order[paired]
        stack.extend(_extensions(prefix, gold[index], predicted, pairs[index]))
    return False


def _pairable(gold: list[Column], predicted: list[Column]) -> list[list[int]] | None:
    """Return, for each gold column, the predicted ones with the same cells in any order."""
    by_cells = defaultdict(list)
    for index, column in enumerate(predicted):
        by_cells[_bag(column)].append(index)
    bags = [_bag(column) for column in gold]
    if Counter(bags) != {bag: len(indices) for bag, indices in by_cells.items()}:
        return None
    return [by_cells[bag] for bag in bags]


def _bag(column: Column) -> frozenset[tuple[Any, int]]:
    return frozenset(Counter(column).items())


def _extensions(
    prefix: _Prefix, gold: Column, predicted: list[Column], candidates: list[int]
) -> Iterator[_Prefix]:
    numbers: dict[tuple[int, Any], int] = {}
    gold_rows = [
        numbers.setdefault((row, cell), len(numbers))
        for row, cell in zip(prefix.gold, gold, strict=True)
    ]
    tried = set()
    for index in candidates:
        column = predicted[index]
        if index not in prefix.free or column in tried:
            continue  # equal columns are interchangeable; trying each would take factorial time
        tried.add(column)
        left = Counter(gold_rows)
        rows = []
        for key in zip(prefix.predicted, column, strict=True):
            number = numbers.get(key)
            if number is None or not left[number]:
                break
            left[number] -= 1
            rows.append(number)
        else:
            yield _Prefix(prefix.free - {index}, gold_rows, rows)
