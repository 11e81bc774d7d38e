"""The folder that a run leaves: a manifest, append-only rows, and the files derived from them.

Rows are only ever appended. A process killed while it wrote leaves at most one damaged line, which
the next attempt moves aside; whatever was whole is kept and never measured again. Files of lines
may be compressed with gzip to be archived, and are then only read.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from cllm_bench.core.files import append, lock, reading, temporary_of, write_atomically, writing
from cllm_bench.core.resume import difference
from cllm_bench.core.schema_version import refuse_newer
from cllm_bench.errors import UserError
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import AblationManifest, Manifest
from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.rounding import Rounding
from cllm_bench.results.rows import Row, row_key
from cllm_bench.results.schema import parse

__all__ = ["AblationFolder", "ResultFolder", "Row", "row_key"]

MANIFEST = "manifest.json"
SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
PERPLEXITIES = "perplexity.jsonl"
JUDGEMENTS = "judgements.jsonl"
PASSES = "passes.jsonl"
ROUNDINGS = "rounding.jsonl"
ATTEMPTS = "attempts.jsonl"
LINES = (SAMPLES, PERPLEXITIES, JUDGEMENTS, PASSES, ROUNDINGS, ATTEMPTS)
LOCK = ".lock"
T = TypeVar("T")
M = TypeVar("M", Manifest, AblationManifest)

# A run killed before its manifest was in place leaves only these: the folder still counts as empty.
_LEFTOVERS = {LOCK, temporary_of(Path(MANIFEST)).name}


@dataclass
class _Folder(Generic[M]):
    """A folder that one process at a time writes to, begun by a manifest and resumed under it.

    Attributes:
        path: The folder.
        manifest: What the first attempt wrote before it began.
        attempt: Which process this is: 0 for the first, 1 for the first resume, and so on. After
            `read`, the number of the last process that wrote.
        warnings: What a reader should know about the state in which the folder was found.
    """

    path: Path
    manifest: M
    attempt: int = 0
    warnings: list[str] = field(default_factory=list)
    _release: weakref.finalize[..., Any] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path, manifest: M) -> Self:
        """Create the folder, or go on with what it holds.

        Args:
            path: The folder; its parents are created.
            manifest: This attempt's own. What decides the results is under `configuration`.

        Raises:
            UserError: The folder holds something else, something begun with another configuration
                or damaged rows; another process writes to it; or it cannot be written.
        """
        with writing(path):
            if path.exists() and not path.is_dir():
                raise UserError(f"'{path}' is a file; pick another --output")
            if path.is_dir() and not (path / MANIFEST).exists():
                _refuse_foreign(path)
            path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, manifest)
        with folder._locking():
            folder._start(manifest)
        return folder

    def write_text(self, name: str, text: str) -> None:
        """Write a derived file, such as `table.md`, replacing an older one in one step.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        write_atomically(self.path / name, text)

    def close(self) -> None:
        """Let go of the lock. What was read stays; nothing can be appended any more."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _locking(self) -> Iterator[None]:
        """Lock the folder, and let go of it again if what follows fails."""
        busy = f"'{self.path}' is in use by another run; wait for it, or pick another --output"
        with writing(self.path):
            descriptor, trouble = lock(self.path / LOCK, busy)
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            if trouble is not None:
                self.warnings.append(
                    f"'{self.path}' cannot be locked ({trouble}); start no second run on it"
                )
            yield
        except BaseException:
            self.close()
            raise

    def _must_be_open(self) -> None:
        if self._release is None or not self._release.alive:
            raise RuntimeError(f"'{self.path}' is not open for writing")

    def _start(self, own: M) -> None:
        """Write the manifest of a new folder, or check it against the stored one and load it."""
        written = own.to_json()
        if not (self.path / MANIFEST).exists():
            self.write_text(MANIFEST, json.dumps(written, indent=2) + "\n")
            return
        stored = _stored_json(self.path)
        # As stored, not as parsed: what an earlier version did not store must not look equal.
        changed = difference(
            stored.get("configuration"),
            json.loads(json.dumps(written["configuration"])),  # as it will read back
            "configuration",
        )
        if changed:
            raise UserError(f"'{self.path}' holds a run with {changed}; pick another --output")
        self.manifest = _manifest(type(own), stored, self.path)
        self._load(repair=True)
        self.attempt = self._next_attempt()
        append(self.path / ATTEMPTS, (json.dumps(written) + "\n").encode())

    def _load(self, *, repair: bool) -> None:
        """Read what stands beside the manifest."""

    def _content(self, name: str) -> tuple[Path, bytes]:
        """Return a file of lines and its content, unpacked if only `NAME.gz` is there."""
        file, packed = self.path / name, self.path / f"{name}.gz"
        if file.exists() or not packed.exists():
            with reading(file):
                return file, file.read_bytes() if file.exists() else b""
        try:
            with reading(packed):
                content = packed.read_bytes()
            return packed, gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"'{packed}' is damaged ({error}); restore the file") from None

    def _next_attempt(self) -> int:
        _, resumes = self._content(ATTEMPTS)
        return len(resumes.splitlines()) + 1


class AblationFolder(_Folder[AblationManifest]):
    """The folder of an ablation; what its variants did is in the run below it."""


@dataclass
class ResultFolder(_Folder[Manifest]):
    """The stored results of one run; made by `open` (to add rows) or `read` (to look at them).

    Attributes:
        rows: All stored rows, in the order in which they were written.
        done: Their keys.
        perplexities: All stored perplexities, by key.
        judgements: All that judges said of the replies, in the order in which they said it.
        pass_times: How long passes take alone.
        roundings: How far rounding moves choices, by task and checkpoint.
    """

    rows: list[Row] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    perplexities: dict[str, Perplexity] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    pass_times: list[PassTime] = field(default_factory=list)
    roundings: dict[tuple[str, str], Rounding] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load a folder without changing it.

        Raises:
            UserError: It is no result folder or of a later version, or its rows are damaged.
        """
        folder = cls(path, _run_manifest(path))
        folder._load(repair=False)
        folder.attempt = folder._next_attempt() - 1
        return folder

    @classmethod
    def skim(cls, path: Path) -> tuple[Self, Iterator[Row]]:
        """Load a folder without its rows, which are yielded one by one.

        For readers that keep little of a row: they never hold all of them.

        Raises:
            UserError: It is no result folder or of a later version, or a line is damaged; of rows
                only when they are read.
        """
        folder = cls(path, _run_manifest(path))
        folder._load_others(repair=False)
        return folder, folder._fresh_rows(repair=False)

    @staticmethod
    def manifest_of(path: Path) -> Manifest | None:
        """Return the manifest of a run that was begun, or None where none was.

        Raises:
            UserError: It is damaged or of a later version, or it is an ablation's.
        """
        return _run_manifest(path) if (path / MANIFEST).is_file() else None

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Load a folder to append what judges say of its rows, whatever the run's configuration.

        Raises:
            UserError: It is no result folder, of a later version, compressed or damaged; another
                process writes to it; or it cannot be written.
        """
        folder = cls(path, _run_manifest(path))
        with folder._locking():
            folder._load(repair=True)
            folder.attempt = folder._next_attempt() - 1
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

    def append_rounding(self, found: Rounding) -> None:
        """Store how far rounding moves choices; return once it is on the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        self._append(ROUNDINGS, found)
        self.roundings[found.task, found.checkpoint] = found

    def _append(self, name: str, found: Perplexity | Judgement | PassTime | Rounding) -> None:
        self._must_be_open()
        line = json.dumps(found.to_json(), allow_nan=False) + "\n"
        append(self.path / name, line.encode())

    def _load(self, *, repair: bool) -> None:
        if repair:
            self._refuse_compressed()
        self.rows += self._fresh_rows(repair=repair)
        self._load_others(repair=repair)

    def _fresh_rows(self, *, repair: bool) -> Iterator[Row]:
        """Yield the stored rows; of several with one key, the first."""
        for row in self._lines(SAMPLES, Row, repair=repair):
            if row.key not in self.done:
                self.done.add(row.key)
                yield row

    def _load_others(self, *, repair: bool) -> None:
        """Read what stands beside manifest and rows."""
        for found in self._lines(PERPLEXITIES, Perplexity, repair=repair):
            self.perplexities.setdefault(found.key, found)
        self.judgements += self._lines(JUDGEMENTS, Judgement, repair=repair)
        self.pass_times += self._lines(PASSES, PassTime, repair=repair)
        for each in self._lines(ROUNDINGS, Rounding, repair=repair):
            self.roundings.setdefault((each.task, each.checkpoint), each)

    def _refuse_compressed(self) -> None:
        for name in LINES:
            packed = self.path / f"{name}.gz"
            if packed.exists() and not (self.path / name).exists():
                raise UserError(
                    f"'{packed}' is compressed, so nothing can be added to this run; unpack it "
                    f"first: gunzip '{packed}'"
                )

    def _lines(self, name: str, kind: type[T], *, repair: bool) -> Iterator[T]:
        """Yield what an append-only file holds, its last line left out or moved aside if cut."""
        file, data = self._content(name)
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
        lines = io.BytesIO(data)  # shares the memory; a list of all lines would double it
        for number, line in enumerate(iter(lines.readline, b""), 1):
            if lines.tell() > whole:
                return
            try:
                yield parse(kind, json.loads(line))
            except ValueError as error:
                raise UserError(
                    f"'{file}' line {number} is damaged ({error}); "
                    "restore the file, or pick another --output"
                ) from None

    def _next_attempt(self) -> int:
        # The rows are asked too: somebody may have deleted the list of attempts.
        return max(super()._next_attempt(), *(row.attempt + 1 for row in self.rows), 1)


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


def _refuse_foreign(path: Path) -> None:
    if any(entry.name not in _LEFTOVERS for entry in path.iterdir()):
        raise UserError(
            f"'{path}' is not empty and has no {MANIFEST}, so it is no run; pick another --output"
        )


def _run_manifest(path: Path) -> Manifest:
    """Read the manifest of a run.

    Raises:
        UserError: There is none, it is damaged or of a later version, or it is an ablation's.
    """
    if not (path / MANIFEST).is_file():
        raise UserError(
            f"'{path}' is no result folder: it has no {MANIFEST}; give a run's --output"
        )
    stored = _stored_json(path)
    configuration = stored.get("configuration")
    if isinstance(configuration, dict) and "ablation" in configuration:
        raise UserError(f"'{path}' holds an ablation; its run is in '{path / 'run'}'")
    return _manifest(Manifest, stored, path)


def _stored_json(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        with reading(file):
            stored = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); pick another --output") from None
    if not isinstance(stored, dict):
        raise UserError(f"'{file}' is no manifest; pick another --output")
    refuse_newer(stored, file)
    return stored


def _manifest(kind: type[M], stored: Mapping[str, Any], path: Path) -> M:
    try:
        return parse(kind, stored)
    except ValueError as error:
        raise UserError(
            f"'{path / MANIFEST}' is damaged ({error}); restore the file, or pick another --output"
        ) from None
