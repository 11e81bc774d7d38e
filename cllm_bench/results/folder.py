"""The folder that a run leaves: a manifest, append-only rows, and the files derived from them.

Rows are only ever appended. A process killed while it wrote leaves at most one damaged line, which
the next attempt moves aside; whatever was whole is kept and never measured again.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from cllm_bench.core.files import append, lock, reading, temporary_of, write_atomically, writing
from cllm_bench.core.resume import difference
from cllm_bench.errors import UserError
from cllm_bench.results.judgements import Judgement, parse_judgement
from cllm_bench.results.pass_times import PassTime, parse_pass_time
from cllm_bench.results.perplexity import Perplexity, parse_perplexity
from cllm_bench.results.rows import Row, parse_row, row_key

__all__ = ["ResultFolder", "Row", "row_key"]

MANIFEST = "manifest.json"
SAMPLES = "samples.jsonl"
PERPLEXITIES = "perplexity.jsonl"
JUDGEMENTS = "judgements.jsonl"
PASSES = "passes.jsonl"
ATTEMPTS = "attempts.jsonl"
LOCK = ".lock"
T = TypeVar("T")

# A run killed before its manifest was in place leaves only these: the folder still counts as empty.
_LEFTOVERS = {LOCK, temporary_of(Path(MANIFEST)).name}


@dataclass(slots=True, weakref_slot=True)
class ResultFolder:
    """The stored results of one run; made by `open` (to add rows) or `read` (to look at them).

    Attributes:
        path: The folder.
        manifest: What the first attempt wrote before its first token.
        attempt: Which process this is: 0 for the first, 1 for the first resume, and so on. After
            `read`, the number of the last process that wrote.
        warnings: What a reader should know about the state in which the folder was found.
        rows: All stored rows, in the order in which they were written.
        done: Their keys.
        perplexities: All stored perplexities, by key.
        judgements: All that judges said of the replies, in the order in which they said it.
        pass_times: How long passes take alone.
    """

    path: Path
    manifest: Mapping[str, Any]
    attempt: int = 0
    warnings: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    perplexities: dict[str, Perplexity] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    pass_times: list[PassTime] = field(default_factory=list)
    _release: weakref.finalize[..., Any] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path, manifest: Mapping[str, Any]) -> Self:
        """Create the folder, or go on with the run that it holds.

        Args:
            path: The folder; its parents are created.
            manifest: This attempt's own. What decides the results is under `configuration`.

        Raises:
            UserError: The folder holds something else, a run with another configuration or damaged
                rows; another process writes to it; or it cannot be written.
        """
        own = json.loads(json.dumps(manifest))  # as it will read back: lists for tuples
        with writing(path):
            if path.exists() and not path.is_dir():
                raise UserError(f"'{path}' is a file; pick another --output")
            if path.is_dir() and not (path / MANIFEST).exists():
                _refuse_foreign(path)
            path.mkdir(parents=True, exist_ok=True)
            descriptor, note = _lock(path)
        folder = cls(path, own)
        folder._release = weakref.finalize(folder, os.close, descriptor)
        try:
            folder.warnings += note
            folder._start(own)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load a folder without changing it.

        Raises:
            UserError: It is no result folder, or its rows are damaged.
        """
        folder = cls(path, _stored_manifest(path))
        folder._load(repair=False)
        folder.attempt = folder._next_attempt() - 1
        return folder

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Load a folder to append what judges say of its rows, whatever the run's configuration.

        Raises:
            UserError: It is no result folder or is damaged; another process writes to it; or it
                cannot be written.
        """
        folder = cls(path, _stored_manifest(path))
        with writing(path):
            descriptor, note = _lock(path)
        folder._release = weakref.finalize(folder, os.close, descriptor)
        try:
            folder.warnings += note
            folder._load(repair=True)
            folder.attempt = folder._next_attempt() - 1
        except BaseException:
            folder.close()
            raise
        return folder

    def append(self, rows: Sequence[Row]) -> None:
        """Store rows, all or none, and return once they are on the disk.

        A row whose key is stored already is left out: the first one wins.

        Raises:
            UserError: The disk is full or cannot be written, or a value is no JSON number.
        """
        self._must_be_open()
        fresh: dict[str, Row] = {}
        for row in rows:
            if row.key not in self.done:
                fresh.setdefault(row.key, row)
        if not fresh:
            return
        append(self.path / SAMPLES, "".join(map(_line, fresh.values())).encode())
        self.rows += fresh.values()
        self.done |= fresh.keys()

    def append_perplexity(self, found: Perplexity) -> None:
        """Store a perplexity; return once it is on the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        self._append(PERPLEXITIES, found)
        self.perplexities[found.key] = found

    def append_judgement(self, found: Judgement) -> None:
        """Store what a judge said; return once it is on the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        self._append(JUDGEMENTS, found)
        self.judgements.append(found)

    def append_pass_time(self, found: PassTime) -> None:
        """Store how long a pass takes; return once it is on the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        self._append(PASSES, found)
        self.pass_times.append(found)

    def _append(self, name: str, found: Perplexity | Judgement | PassTime) -> None:
        self._must_be_open()
        line = json.dumps(found.to_json(), allow_nan=False) + "\n"
        append(self.path / name, line.encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a derived file, such as `table.md`, replacing an older one in one step.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        write_atomically(self.path / name, text)

    def close(self) -> None:
        """Let go of the lock. The rows stay readable; nothing can be appended any more."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _must_be_open(self) -> None:
        if self._release is None or not self._release.alive:
            raise RuntimeError(f"'{self.path}' is not open for writing")

    def _start(self, own: Mapping[str, Any]) -> None:
        """Write the manifest of a new run, or check it against the stored one and load the rows."""
        if not (self.path / MANIFEST).exists():
            self.write_text(MANIFEST, json.dumps(own, indent=2) + "\n")
            return
        self.manifest = _load_manifest(self.path)
        changed = difference(
            self.manifest.get("configuration"), own.get("configuration"), "configuration"
        )
        if changed:
            raise UserError(f"'{self.path}' holds a run with {changed}; pick another --output")
        self._load(repair=True)
        self.attempt = self._next_attempt()
        append(self.path / ATTEMPTS, (json.dumps(own) + "\n").encode())

    def _load(self, *, repair: bool) -> None:
        for row in self._lines(SAMPLES, parse_row, repair=repair):
            if row.key not in self.done:
                self.done.add(row.key)
                self.rows.append(row)
        for found in self._lines(PERPLEXITIES, parse_perplexity, repair=repair):
            self.perplexities.setdefault(found.key, found)
        self.judgements += self._lines(JUDGEMENTS, parse_judgement, repair=repair)
        self.pass_times += self._lines(PASSES, parse_pass_time, repair=repair)

    def _lines(self, name: str, parse: Callable[[Any], T], *, repair: bool) -> Iterator[T]:
        """Yield what an append-only file holds, its last line left out or moved aside if cut."""
        file = self.path / name
        with reading(file):
            data = file.read_bytes() if file.exists() else b""
        whole = _whole_length(data)
        if whole < len(data):
            damaged = f"{name}.damaged"
            fate = f"it was moved to {damaged}" if repair else "it is ignored here"
            self.warnings.append(
                f"the last line of '{file}' was cut (a process was stopped while it wrote); {fate}"
            )
            if repair:
                append(self.path / damaged, data[whole:])
                with writing(file):
                    os.truncate(file, whole)
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                yield parse(json.loads(line))
            except ValueError as error:
                raise UserError(
                    f"'{file}' line {number} is damaged ({error}); "
                    "restore the file, or pick another --output"
                ) from None

    def _next_attempt(self) -> int:
        file = self.path / ATTEMPTS
        with reading(file):
            resumes = len(file.read_bytes().splitlines()) if file.exists() else 0
        # The rows are asked too: somebody may have deleted the list of attempts.
        return max(resumes, *(row.attempt for row in self.rows), 0) + 1


def _line(row: Row) -> str:
    try:
        return json.dumps(row.to_json(), allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(
            f"cannot store sample '{row.sample}' of {row.task} by {row.method}: {error}; "
            "scores and counters must be finite Python numbers"
        ) from error


def _whole_length(data: bytes) -> int:
    """Return how many bytes precede a last line that was cut short."""
    if not data:
        return 0
    start = data.rfind(b"\n", 0, len(data) - 1) + 1
    if not data.endswith(b"\n"):
        return data.rfind(b"\n") + 1
    try:
        json.loads(data[start:])
    except ValueError:  # JSON and UTF-8 errors alike
        return start
    return len(data)


def _lock(path: Path) -> tuple[int, list[str]]:
    busy = f"'{path}' is in use by another run; wait for it, or pick another --output"
    held, trouble = lock(path / LOCK, busy)
    note = f"'{path}' cannot be locked ({trouble}); start no second run on it"
    return held, [] if trouble is None else [note]


def _refuse_foreign(path: Path) -> None:
    if any(entry.name not in _LEFTOVERS for entry in path.iterdir()):
        raise UserError(
            f"'{path}' is not empty and has no {MANIFEST}, so it is no run; pick another --output"
        )


def _stored_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        raise UserError(
            f"'{path}' is no result folder: it has no {MANIFEST}; give a run's --output"
        )
    return _load_manifest(path)


def _load_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        with reading(file):
            manifest = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); pick another --output") from None
    if not isinstance(manifest, dict):
        raise UserError(f"'{file}' is no manifest; pick another --output")
    return manifest
