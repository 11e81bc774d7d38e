"""Reading and writing files so that a full disk or a killed process does no harm."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cllm_bench.errors import UserError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check its permissions") from error


@contextmanager
def reading_hub(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever keeps a data set from being loaded from the Hub into a `UserError`.

    Args:
        name: Of the data set.
        remedy: What the user may do instead.
    """
    try:
        yield
    except _hub_errors() as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot load '{name}' from the Hub: {reason}; or {remedy}") from None


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return what `datasets` raises, and the Hub's client, whichever HTTP library it is built on.

    That library's own errors pass `datasets` as they are; their base is one of the client's error.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    http = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, ValueError, KeyError, DatasetsError, *http)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `UserError` that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and repeat the command; it goes on where it stopped"
        else:
            remedy = "check its permissions, or pick another --output"
        raise UserError(f"cannot write '{path}': {error.strerror}; {remedy}") from error


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file, or replace it in one step: a reader sees the old one or the new one.

    Args:
        file: The file; its folder must exist.
        content: Bytes, or a text that is stored as UTF-8.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    temporary = temporary_of(file)
    with writing(file):
        with temporary.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)


def refuse_foreign(file: Path, mark: str) -> None:
    """Refuse to replace a file that this program did not write.

    Args:
        file: To be written.
        mark: What the program's own files of this kind hold among their first bytes.

    Raises:
        UserError: The file is there without the mark, or it cannot be read.
    """
    with reading(file):
        if not file.exists():
            return
        if file.is_file():
            with file.open("rb") as stream:
                if mark.encode() in stream.read(2048):
                    return
    raise UserError(f"'{file}' exists and is not one of this command's; pick another --output")


def temporary_of(file: Path) -> Path:
    """Return where `write_atomically` writes first."""
    return file.with_name(f".{file.name}.tmp")


def append(file: Path, data: bytes) -> None:
    """Append whole lines; return once they are on the disk. After a failure the file is as before.

    A last line that lacks its end gets it first, so that two lines never run together.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    with writing(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(descriptor).st_size
        try:
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)
        if not size:
            _sync_folder(file.parent)


class Lock(NamedTuple):
    """A lock file that this process holds until it closes the descriptor.

    Attributes:
        descriptor: Of the open file.
        trouble: Why nothing is locked, where the file system has no locks; else None.
    """

    descriptor: int
    trouble: str | None = None


def lock(file: Path, busy: str) -> Lock:
    """Lock a file, which is created where it is missing.

    Args:
        file: The lock file; its folder must exist.
        busy: The error message if another process holds the lock.

    Raises:
        UserError: Another process holds it.
        OSError: The file cannot be opened.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(busy) from None
    except OSError as error:  # some network file systems have no locks
        return Lock(descriptor, error.strerror)
    return Lock(descriptor)


def _sync_folder(path: Path) -> None:
    """Put a new or renamed directory entry on the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
