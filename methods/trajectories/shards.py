"""Collected records on disk: atomic Parquet shards and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench.core.files import reading, temporary_of, write_atomically, writing
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from cllm_bench.decoding.stop_strings import StopStrings

    from ..jacobi.method import Jacobi

MANIFEST = "manifest.json"
FORMAT = 1
_METADATA = b"cllm_bench"


class Question(NamedTuple):
    """One prompt to decode.

    Attributes:
        sample: Id of the question, unique within its task.
        task: Its task.
        prompt: Ids of the prompt.
        reference: Ids of the known answer, the end token included; may be empty.
    """

    sample: str
    task: str
    prompt: tuple[int, ...]
    reference: tuple[int, ...] = ()


@dataclass(frozen=True)
class CollectionSettings:
    """What is collected, and how.

    Attributes:
        max_new_tokens: The limit of one answer; a model's last position may end it sooner.
        stop_ids: Ids that end an answer.
        block_size: Tokens in a block of the records, n.
        full: Whether to keep whole trajectories from the guesses that inference would make. Else
            only fixed points are kept, found fast by guessing what the reference says.
        shard_size: Questions in a shard: so many at most are decoded again after a kill.
        ends: Tells that an answer ends by its text; None where only ids end one.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    block_size: int = 16
    full: bool = True
    shard_size: int = 256
    ends: StopStrings | None = None

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.shard_size) < 1 or self.block_size < 2:
            raise UserError(
                "max_new_tokens and shard_size must be at least 1 and block_size at least 2, not "
                f"{self.max_new_tokens}, {self.shard_size} and {self.block_size}"
            )


class Record(NamedTuple):
    """One block of one answer: the states of its Jacobi iteration and where they end.

    Attributes:
        sample: Id of the question.
        task: Its task.
        block: Number of the block: 0, 1, …
        prompt: Ids of the prompt.
        settled: Output before the block, `block · block_size` ids; the prefix that the model sees
            is prompt + settled.
        states: y(0) … y(J), each as long as the fixed point: the initial guess as inference makes
            it, whose first token is settled already, up to the fixed point. Consecutive equal
            states are kept once.
        fixed_point: What greedy decoding gives: `block_size` ids, or fewer where the answer ends.
        finished: Whether a stop token or string ended the answer, and not the limit.
    """

    sample: str
    task: str
    block: int
    prompt: tuple[int, ...]
    settled: tuple[int, ...]
    states: tuple[tuple[int, ...], ...]
    fixed_point: tuple[int, ...]
    finished: bool


@dataclass(frozen=True)
class Counts:
    """What a shard holds and took."""

    prompts: int = 0
    records: int = 0
    tokens: int = 0
    passes: int = 0
    finished: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))

    def with_answer(self, records: Sequence[Record], passes: int) -> Counts:
        """Count the records of one more answer."""
        finished = records[0].finished
        tokens = sum(len(record.fixed_point) for record in records)
        return self + Counts(1, len(records), tokens, passes, finished, not finished)

    def after(self, seconds: float) -> Counts:
        """Note how long it took."""
        return replace(self, seconds=seconds)

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens a pass; those that the prefills gave, one a prompt, are left out."""
        return (self.tokens - self.prompts) / self.passes if self.passes else None


def file_of(folder: Path, index: int) -> Path:
    """Return where a shard lies."""
    return folder / f"shard-{index:05d}.parquet"


def key(questions: Sequence[Question], settings: CollectionSettings, decoder: Jacobi) -> str:
    """Return a hash of what decides a shard's records, but for the weights."""
    # Fixed points are the same whatever is guessed; only real trajectories depend on the guesses.
    guesses = (decoder.guess, decoder.seed) if settings.full else ()
    decisive = (
        FORMAT,
        settings.max_new_tokens,
        sorted(settings.stop_ids),
        sorted(settings.ends.strings) if settings.ends else [],
        settings.block_size,
        settings.full,
        guesses,
        [(each.sample, each.task, each.prompt) for each in questions],
    )
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def write(file: Path, records: Sequence[Record], counts: Counts, shard_key: str) -> None:
    """Write a shard in one step, with its counts inside.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    note = json.dumps(asdict(counts) | {"key": shard_key})
    columns = {name: [getattr(each, name) for each in records] for name in Record._fields}
    table = pyarrow.table(columns, schema=_schema().with_metadata({_METADATA: note}))
    temporary = temporary_of(file)
    with writing(file):
        with temporary.open("wb") as stream:
            parquet.write_table(table, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


def _schema() -> Any:
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    text = pyarrow.string()
    return pyarrow.schema(
        {
            "sample": text,
            "task": text,
            "block": pyarrow.int32(),
            "prompt": ids,
            "settled": ids,
            "states": pyarrow.list_(ids),
            "fixed_point": ids,
            "finished": pyarrow.bool_(),
        }
    )


def check(file: Path, shard_key: str) -> Counts:
    """Return the counts of a shard that is there.

    Raises:
        UserError: It cannot be read, or belongs to another collection.
    """
    note = _note(file)
    if note.pop("key") != shard_key:
        raise UserError(
            f"'{file}' was collected from other questions or with other settings; pick another "
            "folder, or delete this one"
        )
    return Counts(**note)


def _note(file: Path) -> dict[str, Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with reading(file):
            return dict(json.loads(parquet.read_schema(file).metadata[_METADATA]))
    except (pyarrow.ArrowInvalid, KeyError, TypeError) as error:
        raise UserError(
            f"'{file}' is not a shard of trajectories; delete it and collect again"
        ) from error


def write_manifest(
    folder: Path, keys: Sequence[str], settings: CollectionSettings, rank: int
) -> None:
    """Write the manifest, unless a shard is still missing.

    Raises:
        UserError: A shard belongs to another collection, or the disk cannot be written.
    """
    files = [file_of(folder, index) for index in range(len(keys))]
    if not all(file.exists() for file in files):
        return
    total = sum((check(file, each) for file, each in zip(files, keys, strict=True)), Counts())
    content = asdict(total) | {
        "tokens_per_pass": total.tokens_per_pass,
        "block_size": settings.block_size,
        "max_new_tokens": settings.max_new_tokens,
        "full": settings.full,
        "shards": {file.name: _sha256(file) for file in files},
    }
    # Two processes may finish at the same time: each writes a file of its own, and either may win.
    own = folder / f".{MANIFEST}.{rank}"
    write_atomically(own, json.dumps(content, indent=2) + "\n")
    own.replace(folder / MANIFEST)


def _sha256(file: Path) -> str:
    with reading(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished collection.

    Raises:
        UserError: There is none.
    """
    file = folder / MANIFEST
    if not file.exists():
        raise UserError(
            f"'{folder}' holds no finished collection of trajectories: {MANIFEST} is missing; "
            "repeat the command that collects them"
        )
    with reading(file):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def read_records(folder: Path) -> list[Record]:
    """Return all records of a finished collection, in the order of the questions.

    Raises:
        UserError: A shard is missing, or is not the one that the manifest names.
    """
    found: list[Record] = []
    for name, digest in read_manifest(folder)["shards"].items():
        file = folder / name
        if not file.exists() or _sha256(file) != digest:
            state = "is not the one" if file.exists() else "is missing"
            raise UserError(
                f"'{file}' {state} that {MANIFEST} names; delete it if it is there, and repeat the "
                "command that collects trajectories"
            )
        found += _read(file)
    return found


def _read(file: Path) -> list[Record]:
    from pyarrow import parquet

    columns = parquet.read_table(file).to_pydict()
    for name in ("prompt", "settled", "fixed_point"):
        columns[name] = map(tuple, columns[name])
    columns["states"] = (tuple(map(tuple, states)) for states in columns["states"])
    return [Record(*row) for row in zip(*(columns[f] for f in Record._fields), strict=True)]
