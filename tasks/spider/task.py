"""Spider: questions to be answered with SQL, graded by running it (Yu et al., EMNLP 2018).

Its three sources are the project's own generated sample, in which every database is synthetic; the
data set itself in its official layout; and not the Hub, where it has no databases.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from cllm_bench.contracts import Sample, SampleSet, Source, Split
from cllm_bench.errors import UserError, did_you_mean

from .dataset import QuestionText, TableText, read_spider
from .grading import Grading, execution_match, gold_rows
from .sql_match import sql_in_reply

_GRADING_VERSION = 1  # raise it with any change that can change a grade
_MOST = 1_000_000  # of any setting


def compact_prompt(tables: Iterable[TableText], question: str) -> str:
    """Return the prompt of `compact-v1`, which small models learn."""
    schema = "".join(f"{table.name}({', '.join(table.columns)})\n" for table in tables)
    return f"{schema}question: {question}\nsql:"


def paper_prompt(tables: Iterable[TableText], question: str) -> str:
    """Return the prompt of `paper-v1`: the format that the CLLM paper describes, in own words."""
    schema = "".join(
        f"table named {table.name} with columns {list(table.columns)}\n" for table in tables
    )
    return (
        "### Instruction:\n"
        "Translate the question into an SQL query over these tables. Answer with SQL alone.\n"
        f"{schema}Question: {question}\n### Response:\n"
    )


class Template(NamedTuple):
    """A way to write a prompt.

    Attributes:
        prompt: Writes it.
        lead: What comes between prompt and answer. A space belongs to the answer, because
            byte-level vocabularies hold words with the space before them.
    """

    prompt: Callable[[Iterable[TableText], str], str]
    lead: str


SHARED_DATABASES = (
    "the built-in questions are generated; training questions are others, but over the same "
    "databases: this is not Spider's cross-database setting"
)
TEMPLATES = {"compact-v1": Template(compact_prompt, " "), "paper-v1": Template(paper_prompt, "")}


class _Material(NamedTuple):
    """One split of one source, before any template."""

    label: str
    template: str  # what `auto` means here
    questions: Sequence[QuestionText]
    tables: Mapping[str, tuple[TableText, ...]]
    databases: Mapping[str, Path]
    content_hash: Callable[[Path], str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spider:
    """Text to SQL, graded by execution.

    Attributes:
        template: `compact-v1`, `paper-v1`, or `auto`: the first for the built-in sample, the second
            for Spider itself.
        max_new_tokens: The limit of one reply.
        seconds: Wall-clock limit of one query.
        row_limit: The largest result; a prediction with a larger one is wrong.
        keep_distinct: Leave DISTINCT in both queries; the official default removes it.
        train_questions: Size of the built-in training split.
    """

    metric: ClassVar[str] = "execution accuracy"
    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ("spider",)

    template: str = "auto"
    max_new_tokens: int = 256
    seconds: float = 10.0
    row_limit: int = 100_000
    keep_distinct: bool = False
    train_questions: int = 60_000

    def __post_init__(self) -> None:
        known = ("auto", *TEMPLATES)
        if self.template not in known:
            tail = did_you_mean(self.template, known)
            raise UserError(f"spider has no template named '{self.template}'; {tail}")
        for name in ("max_new_tokens", "seconds", "row_limit", "train_questions"):
            if not 0 < getattr(self, name) <= _MOST:
                value = getattr(self, name)
                raise UserError(f"spider: {name} is {value}; give more than 0, at most {_MOST:,}")

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which a reply is cut: a model that goes on goes on with the next question."""
        return ("\n###", "\nquestion:", "\nQuestion:")

    def samples(self, source: Source) -> SampleSet:
        """Load the questions, and for the test split run every reference query once.

        Raises:
            UserError: The source is not there, is not Spider, or a reference query does not run.
        """
        material = self._material(source)
        name = material.template if self.template == "auto" else self.template
        left_out = defaultdict(list)
        samples = []
        for question in material.questions:
            if question.database in material.databases:
                samples.append(_sample(question, material, TEMPLATES[name]))
            else:
                reason = f"database '{question.database}' is not in the folder"
                left_out[reason].append(question.id)
        # Training never grades, and running thousands of queries for it would only cost time.
        notes = self._notes(samples) if source.split == "test" else ()
        return SampleSet(
            samples=tuple(samples),
            label=material.label,
            template=name,
            fingerprint=_fingerprint(samples, material, self._grading),
            left_out={reason: tuple(ids) for reason, ids in left_out.items()},
            notes=material.notes + notes,
        )

    def score(self, sample: Sample, replies: Sequence[str]) -> float:
        """Return 1 where the reply's SQL returns what the reference query returns, else 0.

        Raises:
            UserError: The reference query itself does not run here.
        """
        (reply,) = replies
        prediction = sql_in_reply(reply, self.stop)
        database, gold = Path(sample.data["file"]), sample.data["sql"]
        return float(execution_match(database, gold, prediction, self._grading))

    @property
    def _grading(self) -> Grading:
        return Grading(self.seconds, self.row_limit, self.keep_distinct)

    def _material(self, source: Source) -> _Material:
        if source.kind == "built-in":
            return _built_in(source.split, self.train_questions)
        if source.kind == "folder":
            return _folder(source)
        raise UserError(
            "Spider on the Hub has no databases, and no SQL is graded without them; download "
            "Spider 1.0 from https://yale-lily.github.io/spider and give --data spider=FOLDER"
        )

    def _notes(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        empty = sum(
            not gold_rows(Path(sample.data["file"]), sample.data["sql"], self._grading)
            for sample in samples
        )
        notes = []
        if empty:
            notes.append(
                f"{empty} of {len(samples)} reference queries return no rows: any answer without "
                "rows passes there, in the official metric too"
            )
        if self.keep_distinct:
            notes.append("DISTINCT counts, which the official evaluator ignores by default")
        return tuple(notes)


def _sample(question: QuestionText, material: _Material, template: Template) -> Sample:
    return Sample(
        id=question.id,
        prompt=template.prompt(material.tables[question.database], question.text),
        reference=template.lead + question.sql,
        data={
            "question": question.text,
            "database": question.database,
            "file": str(material.databases[question.database]),
            "sql": question.sql,
        },
    )


def _folder(source: Source) -> _Material:
    files = read_spider(source.path, source.split)
    label = "Spider dev" if source.split == "test" else "Spider train"
    return _Material(
        label, "paper-v1", files.questions, files.tables, files.databases, _hash_of_file
    )


def _built_in(split: Split, train_questions: int) -> _Material:
    from .builtin import sample as spider_sample

    count = spider_sample.TEST_QUESTIONS if split == "test" else train_questions
    questions = [
        QuestionText(question.id, question.database, question.text, question.sql)
        for question in spider_sample.questions(split, count)
    ]
    tables = {
        name: tuple(
            TableText(table.name, tuple(column.name for column in table.columns))
            for table in spider_sample.schema(name)
        )
        for name in sorted({question.database for question in questions})
    }
    return _Material(
        label="built-in",
        template="compact-v1",
        questions=questions,
        tables=tables,
        databases=_built_in_databases(),
        content_hash=_hash_of_content,
        notes=(SHARED_DATABASES,),
    )


@functools.cache
def _built_in_databases() -> dict[str, Path]:
    """Build the sample's databases in a folder that goes with the process."""
    from .builtin import sample as spider_sample

    folder = Path(tempfile.mkdtemp(prefix="cllm-bench-spider-"))
    atexit.register(_remove, folder, os.getpid())
    return dict(spider_sample.build_databases(folder))


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a fork that ends must leave the folder to its parent
        shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(samples: Sequence[Sample], material: _Material, grading: Grading) -> str:
    digest = hashlib.sha256(json.dumps([_GRADING_VERSION, grading]).encode())
    for sample in samples:
        parts = (sample.id, sample.data["database"], sample.prompt, sample.reference)
        digest.update(json.dumps(parts).encode())
    for name in sorted({sample.data["database"] for sample in samples}):
        digest.update(f"{name} {material.content_hash(material.databases[name])}\n".encode())
    return digest.hexdigest()


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_content(path: Path) -> str:
    """Hash what a database says: its bytes change with the SQLite that wrote it."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        digest.update(repr(schema).encode())
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                digest.update(repr(row).encode())
    return digest.hexdigest()
