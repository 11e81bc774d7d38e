"""Runs SQL that nobody has read, in a process of its own. The parent is `sql_execution`.

Started as `python -I -S -B sql_worker.py` with an empty environment, it needs the standard library
alone. On both streams a message is four bytes of length, big-endian, and JSON. It greets with
`READY`, and then answers `{"database", "sql", "seconds", "rows"}` with `{"rows": [...]}` or with
`{"reason", "message"}`; a blob travels as `{"blob": "hexadecimal digits"}`.

One defence would do for each danger; there are two, because a defence can have a hole:

* writing: the file is opened read-only and immutable (which also keeps SQLite from creating
  journals beside it), the authorizer refuses all but reading, and the process may not grow a file;
* time: a progress handler interrupts; single steps that never reach it (a long LIKE) are cut short
  by the parent, or by the processor-time limit should the parent be gone;
* memory: SQLite's heap, its longest value and the process's address space are all bounded, and a
  result is refused, never cut, once it has too many rows or bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sqlite3
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

READY = {"ready": True}

HEAP_BYTES = 256 << 20  # SQLite's own memory: sorters, hash tables, materialised subqueries
ADDRESS_SPACE_BYTES = 1 << 30  # the whole process, Python's copy of the result included
VALUE_BYTES = 1 << 20  # one text, blob or row
RESULT_BYTES = 16 << 20  # all cells together, a number counted as eight
SQL_BYTES = 100_000  # the text of a query
CPU_GRACE_SECONDS = 2  # past the parent's own deadline, so that this limit is only a backstop

_STEPS_BETWEEN_CLOCK_READINGS = 2_000  # virtual-machine steps; some tens of microseconds
_ROWS_AT_ONCE = 256
_LENGTH = struct.Struct(">I")
_ALLOWED_ACTIONS = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
# Some builds carry these as SQL functions: they load code, touch files or hand out pointers.
_FORBIDDEN_FUNCTIONS = frozenset(
    ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer")
)
_REASONS = {
    sqlite3.SQLITE_INTERRUPT: "timeout",
    sqlite3.SQLITE_AUTH: "forbidden",
    sqlite3.SQLITE_READONLY: "forbidden",
    sqlite3.SQLITE_NOMEM: "memory",
    sqlite3.SQLITE_TOOBIG: "size",
    sqlite3.SQLITE_NOTADB: "database",
    sqlite3.SQLITE_CORRUPT: "database",
    sqlite3.SQLITE_CANTOPEN: "database",
    sqlite3.SQLITE_IOERR: "database",
}


class RefusedError(Exception):
    """A limit of this module that a query has met.

    Attributes:
        reason: The word that the parent reports.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def execute(database: str, sql: str, seconds: float, rows: int) -> list[tuple[Any, ...]]:
    """Run one statement and return its whole result.

    Raises:
        RefusedError: A limit of this module is met, or the text is no query.
        sqlite3.Error: SQLite refuses it; `answer` knows the reasons.
        sqlite3.Warning: It is more than one statement (Python 3.11).
        MemoryError: SQLite or Python ran out of what they may have.
    """
    deadline = time.monotonic() + seconds
    with contextlib.closing(_open(database)) as connection:
        connection.set_progress_handler(
            lambda: time.monotonic() > deadline, _STEPS_BETWEEN_CLOCK_READINGS
        )
        connection.set_authorizer(_authorize)
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise RefusedError("syntax", "no query")
        return _fetch(cursor, rows)


def _open(database: str) -> sqlite3.Connection:
    for suffix in ("-wal", "-journal"):
        unfinished = Path(database + suffix)
        if unfinished.exists() and unfinished.stat().st_size:
            # Read as immutable, the database would silently lack what this file holds.
            raise RefusedError("database", f"unfinished changes in {unfinished}")
    path = database.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file://{path}?mode=ro&immutable=1", uri=True, isolation_level=None, cached_statements=0
    )
    # The official evaluator drops the bytes that are no UTF-8, on both sides of the comparison.
    connection.text_factory = lambda raw: raw.decode(errors="ignore")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0)
    for pragma in (
        f"hard_heap_limit={HEAP_BYTES}",
        "temp_store=MEMORY",
        "query_only=ON",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


def _authorize(
    action: int, _first: str | None, second: str | None, _schema: str | None, _cause: str | None
) -> int:
    if action not in _ALLOWED_ACTIONS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _fetch(cursor: sqlite3.Cursor, limit: int) -> list[tuple[Any, ...]]:
    result: list[tuple[Any, ...]] = []
    size = 0
    while part := cursor.fetchmany(_ROWS_AT_ONCE):
        result += part
        if len(result) > limit:
            raise RefusedError("rows", f"more than {limit} rows")
        size += sum(
            len(cell) if isinstance(cell, (str, bytes)) else 8 for row in part for cell in row
        )
        if size > RESULT_BYTES:
            raise RefusedError("size", f"a result of more than {RESULT_BYTES} bytes")
    return result


def answer(request: dict[str, Any]) -> bytes:
    """Return the reply to one request, as it is sent."""
    try:
        return encode({"rows": execute(**request)})
    except RefusedError as error:
        reason, message = error.reason, str(error)
    except MemoryError:
        reason, message = "memory", "out of memory"
    except sqlite3.Error as error:
        # The low byte is the primary code; Python's own complaints have none, and are about the
        # text: a null character, an unbound parameter, a second statement.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        too_big = isinstance(error, sqlite3.DataError)
        reason, message = "size" if too_big else _REASONS.get(code, "syntax"), str(error)
        if reason == "syntax" and message.startswith("not authorized"):
            reason = "forbidden"  # SQLite reports some of the authorizer's refusals as its own
    except (sqlite3.Warning, ValueError) as error:  # two statements; no UTF-8 of a lone surrogate
        reason, message = "syntax", str(error)
    return encode({"reason": reason, "message": message[:500]})


def encode(message: object) -> bytes:
    """Return a message as it travels."""
    # ASCII, because queries may hold lone surrogates, which no UTF-8 can carry.
    body = json.dumps(message, default=lambda blob: {"blob": blob.hex()}).encode("ascii")
    return _LENGTH.pack(len(body)) + body


def read_message(read: Callable[[int], bytes]) -> bytes | None:
    """Read one message's JSON.

    Args:
        read: Returns exactly as many bytes as asked for, and fewer only at the end of the stream.

    Returns:
        None once the stream has ended.
    """
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = read(length)
    return body if len(body) == length else None


def _confine() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        # macOS does not let a process bound its address space; SQLite's own limits stay in force.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def _bound_processor_time(seconds: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    soft = math.ceil(used + seconds) + CPU_GRACE_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    replies.write(encode(READY))
    replies.flush()
    while body := read_message(requests.read):
        request = json.loads(body)
        _bound_processor_time(request["seconds"])
        replies.write(answer(request))
        replies.flush()


if __name__ == "__main__":
    _confine()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
