"""Runs SQL that nobody has read, within limits, and never changes a database.

`SqlRunner` is the parent of one `sql_worker` process, which stays alive so that a query costs about
a millisecond. What the worker does to confine a query is told there; this side adds the deadline
that nothing inside the worker can talk its way out of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

from . import sql_worker

Cell = int | float | str | bytes | None
Row = tuple[Cell, ...]
Reason = Literal[
    "syntax", "timeout", "rows", "size", "memory", "forbidden", "database", "crash"
]  # why a query has no result

_GRACE_SECONDS = 1.0  # the worker interrupts itself first; this is the time to hear of it
_START_SECONDS = 60.0  # for a machine so busy that a process takes long to start
_MAX_REPLY_BYTES = 512 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The whole result of a query, in the order in which SQLite gave it."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class SqlError:
    """Why a query has no result.

    Attributes:
        reason: `syntax` also covers names that do not exist and texts that are not one query;
            `rows` and `size` are results too large, `database` a file that cannot be read, `crash`
            a worker that died twice over the same query.
        message: What SQLite or the limit said.
    """

    reason: Reason
    message: str


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    channel: socket.socket
    owner: int  # process id of the parent: a fork inherits the channel but must not use it


class _WorkerDiedError(Exception):
    """The worker closed its end."""


class SqlRunner:
    """Runs queries one after another in a confined process.

    The process starts with the first query, is replaced whenever it had to be killed, and ends with
    `close`, with the context, with the runner or with the interpreter, whichever comes first. After
    a fork each side has its own. Not to be used by two threads at once.

    Args:
        seconds: Wall-clock limit of one query.
        row_limit: The largest result; a larger one is an error.
    """

    def __init__(self, seconds: float = 10.0, row_limit: int = 100_000) -> None:
        self.seconds = seconds
        self.row_limit = row_limit
        self._worker: _Worker | None = None
        self._finalizer: weakref.finalize[[_Worker], SqlRunner] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def process_id(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._worker.process.pid if self._worker else None

    def close(self) -> None:
        """End the worker. Another query would start another."""
        if self._finalizer:
            self._finalizer()
        self._worker = self._finalizer = None

    def run(self, database: Path, sql: str) -> Rows | SqlError:
        """Run one query.

        Args:
            database: An SQLite file; it is never changed, nor anything created beside it.
            sql: One statement.

        Raises:
            RuntimeError: The worker cannot be started at all.
        """
        request = sql_worker.encode(
            {
                "database": str(database.resolve()),
                "sql": sql,
                "seconds": self.seconds,
                "rows": self.row_limit,
            }
        )
        for _ in range(2):  # somebody else may have killed the worker; its query deserves a second
            try:
                return _outcome(self._exchange(request))
            except TimeoutError:
                self.close()
                return SqlError("timeout", f"killed after {self.seconds:g} s")
            except _WorkerDiedError:
                if self._out_of_processor_time():
                    return SqlError("timeout", f"killed after {self.seconds:g} s of work")
            except BaseException:
                # An interrupted exchange leaves a reply behind that the next query would take.
                self.close()
                raise
        return SqlError("crash", "the process that ran the query died")

    def _exchange(self, request: bytes) -> bytes:
        worker = self._started()
        deadline = time.monotonic() + self.seconds + _GRACE_SECONDS
        return _exchange(worker.channel, request, deadline)

    def _started(self) -> _Worker:
        if self._worker and self._worker.owner != os.getpid():
            self.close()
        if self._worker is None:
            self._worker = _start()
            self._finalizer = weakref.finalize(self, _stop, self._worker)
        return self._worker

    def _out_of_processor_time(self) -> bool:
        worker = self._worker
        self.close()
        return worker is not None and worker.process.returncode == -signal.SIGXCPU


def _start() -> _Worker:
    ours, theirs = socket.socketpair()
    script = Path(sql_worker.__file__).resolve()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(script)],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            # Ctrl-C at the terminal is the parent's to handle, and a kill takes the whole group.
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    worker = _Worker(process, ours, os.getpid())
    try:
        greeting = _receive(ours, time.monotonic() + _START_SECONDS)
    except BaseException as error:
        _stop(worker)
        if isinstance(error, (TimeoutError, _WorkerDiedError)):
            # Were this a verdict on the query, a broken machine would score every model 0.
            command = f"env -i {sys.executable} -I -S -B {script}"
            raise RuntimeError(f"the SQL worker does not start; try `{command}`") from error
        raise
    assert json.loads(greeting) == sql_worker.READY
    return worker


def _stop(worker: _Worker) -> None:
    worker.channel.close()
    if worker.owner != os.getpid():
        worker.process.returncode = 0  # the parent's to wait for; keeps Popen from warning
        return
    # Until it has been waited for, the id cannot have passed to another process.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def _exchange(channel: socket.socket, request: bytes, deadline: float) -> bytes:
    try:
        channel.settimeout(_remaining(deadline))
        channel.sendall(request)
    except ConnectionError as error:
        raise _WorkerDiedError from error
    return _receive(channel, deadline)


def _receive(channel: socket.socket, deadline: float) -> bytes:
    def read(count: int) -> bytes:
        data = bytearray()
        if count > _MAX_REPLY_BYTES:
            raise _WorkerDiedError
        while len(data) < count:
            channel.settimeout(_remaining(deadline))
            try:
                part = channel.recv(min(count - len(data), _CHUNK_BYTES))
            except ConnectionError as error:
                raise _WorkerDiedError from error
            if not part:
                break
            data += part
        return bytes(data)

    message = sql_worker.read_message(read)
    if message is None:
        raise _WorkerDiedError
    return message


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _outcome(message: bytes) -> Rows | SqlError:
    reply = json.loads(message, object_hook=_blob)
    if "rows" in reply:
        return Rows(tuple(map(tuple, reply["rows"])))
    assert reply["reason"] in get_args(Reason)
    return SqlError(reply["reason"], reply["message"])


def _blob(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["blob"]) if "blob" in value else value
