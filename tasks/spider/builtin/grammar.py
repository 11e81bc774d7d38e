"""The endless, seeded stream of checked (question, SQL) pairs.

A pair belongs to one split for ever: the hash of its query's words, sorted, decides. Sorting makes
queries that differ only in the order of their conditions or columns fall on the same side.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import accumulate
from random import Random
from typing import Literal

from . import grouping as spider_groups
from . import joins as spider_paired
from . import single_table as spider_single
from .rows import fill, rows
from .schemas import entities
from .single_table import Scene
from .wording import Draft, Filters

Split = Literal["train", "test"]

# The weight of each kind in either split.
WEIGHTS: dict[str, tuple[Callable[[Scene, Random], Draft], int]] = {
    "filter": (spider_single.plain_filter, 6),
    "two_conditions": (spider_single.two_conditions, 10),
    "aggregate": (spider_single.aggregate, 10),
    "distinct": (spider_single.distinct, 7),
    "order_limit": (spider_single.order_limit, 13),
    "between": (spider_single.between, 6),
    "like": (spider_single.like, 6),
    "group_by": (spider_groups.group_by, 9),
    "having": (spider_groups.having, 9),
    "set_operation": (spider_groups.set_operation, 9),
    "join": (spider_paired.join, 12),
    "join_group": (spider_paired.join_group, 13),
    "nested": (spider_paired.nested, 11),
}
# One query in so many is kept for the test.
_TEST_EVERY = 8
# Drafts of one kind and database before another is chosen: few small tables have no sound query.
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with its query and where it came from."""

    database: str
    kind: str
    text: str
    sql: str


def normal(text: str) -> str:
    """Return a text without regard to case and white space."""
    return " ".join(text.lower().split())


def split_of(database: str, sql: str) -> Split:
    """Return the one split that a query belongs to."""
    words = " ".join(sorted(normal(sql).replace(",", " ").split()))
    digest = sha256(f"{database}: {words}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0 else "train"


@cache
def _scene(database: str) -> Scene:
    tables = entities()[database]
    filters = {}
    for entity in tables:
        columns = zip(*rows(database)[entity.name], strict=True)
        values = {f.name: column for f, column in zip(entity.fields, columns, strict=True)}
        filters[entity.name] = Filters(entity, values)
    return Scene(tables, filters)


def sound(connection: sqlite3.Connection, draft: Draft) -> bool:
    """Say whether a query finds something and its rows have only one order.

    A query that sorts must meet no two equal keys, nor one just past its limit; one with a limit
    must leave rows out. No part of a query may be idle: then a reply without it would be right.
    """
    found = sorted(connection.execute(draft.sql).fetchall(), key=repr)
    if not found or found in ([(None,)], [(0,)], [(None, None)]):
        return False
    for rival in draft.rivals:
        if sorted(connection.execute(rival).fetchall(), key=repr) == found:
            return False
    if not draft.keys:
        return True
    keys = connection.execute(draft.keys).fetchall()
    return len(keys) > max(1, draft.limit) and len(set(keys)) == len(keys)


def stream(split: Split) -> Generator[Pair, None, None]:
    """Yield sound pairs of a split, without end and with repeats."""
    rng = Random(f"questions for {split}")
    names, kinds = tuple(entities()), tuple(WEIGHTS)
    bounds = list(accumulate(weight for _, weight in WEIGHTS.values()))
    connections: dict[str, sqlite3.Connection] = {}
    try:
        while True:
            database = rng.choice(names)
            if database not in connections:
                connections[database] = sqlite3.connect(":memory:")
                fill(connections[database], database)
            place = rng.randrange(bounds[-1])
            kind = kinds[bisect_right(bounds, place)]
            for _ in range(_TRIES):
                draft = WEIGHTS[kind][0](_scene(database), rng)
                mine = split_of(database, draft.sql) == split
                if mine and sound(connections[database], draft):
                    yield Pair(database, kind, draft.text, draft.sql)
                    break
    finally:
        for connection in connections.values():
            connection.close()
