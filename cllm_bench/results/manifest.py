"""The manifests of runs and of ablations: what was done, where and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cllm_bench.contracts import Exactness, Sampling
from cllm_bench.core.schema_version import UNNUMBERED
from cllm_bench.engine.checkpoint import Quantisation
from cllm_bench.engine.runtime import EngineChoice, ProductChoice, Runtime
from cllm_bench.machine.environment import Environment
from cllm_bench.results.schema import to_json


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """A method of a run: one row of the table for each task.

    Attributes:
        method: Label of the method, as tables show it.
        name: Its registered name.
        settings: Its settings, by name.
        checkpoint: Role of the checkpoint whose output it settles.
        exactness: What it claims of its replies: `exact`, `distribution` or `lossy`.
        baseline: Label of the baseline on the same checkpoint.
        again: Whether it is the run's baseline, measured once more (A/A).
        phase: In which phase of the run it was measured. Methods of one phase took turns, question
            by question; those of a later one came when all questions had been asked.
        parameters: Parameters of the checkpoint.
        weight_bytes: Bytes of weights that a pass reads; None in earlier versions.
        cache_bytes_per_token: Bytes of keys and values that a pass reads of each committed token;
            None in earlier versions.
        extra_parameters: Parameters that the method needs beside its checkpoint's; None in earlier
            versions.
    """

    method: str
    name: str
    settings: Mapping[str, Any]
    checkpoint: str
    exactness: Exactness
    baseline: str
    again: bool = False
    phase: int = 0
    parameters: int
    weight_bytes: int | None = None
    cache_bytes_per_token: int | None = None
    extra_parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    """The weights of a role, as passes run them.

    Attributes:
        layers: Decoder layers.
        fused_layers: Those that run as fewer and larger operations; the others run as transformers
            has them.
        window: Tokens that the layers with the shortest attention window see, and the most that a
            sequence of the run may have; null where all layers see every token.
        quantised: What the weights are run as, where the checkpoint holds quantised ones; else
            null.
    """

    layers: int
    fused_layers: int
    window: int | None = None
    quantised: Quantisation | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """Where the weights of a role come from.

    Attributes:
        kind: `bundled` with the package, a `folder`, or the `hub`; null in earlier versions.
        location: Folder, or id on the Hub; of a bundled one the path inside the package; null in
            earlier versions.
        revision: Revision on the Hub that was asked for; null where none was.
        fingerprint: What tells the weights from others: `sha256:` and a hash over a folder's files,
            or `hub:` and the commit.
    """

    kind: Literal["bundled", "folder", "hub"] | None = None
    location: str | None = None
    revision: str | None = None
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """A task of a run.

    Attributes:
        task: Label of the task: the text that selects it.
        source: Where its questions come from.
        samples: Questions asked, a conversation counted once.
        replies: Replies that a method is to give, turns and draws counted; None in earlier
            versions.
        left_out: Ids of questions that are not asked, by the reason.
        notes: What a reader of the figures should know.
        template: Name of the prompt's template.
        metric: What the score is.
        best_score: The best possible score; 0 if lower is better.
        best_of: Draws whose expected best is the score of a question.
        judged: Whether another model grades the replies.
        max_new_tokens: Longest reply, in tokens.
        asked: Replies that each method is to give, by its label; empty in earlier versions, which
            asked every method all questions.
    """

    task: str
    source: str
    samples: int
    replies: int | None = None
    left_out: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    template: str
    metric: str
    best_score: float
    best_of: int = 1
    judged: bool = False
    max_new_tokens: int
    asked: Mapping[str, int] = field(default_factory=dict)

    def planned(self, method: str) -> int:
        """Return how many replies a method is to give."""
        everything = self.samples if self.replies is None else self.replies
        return self.asked.get(method, everything)


@dataclass(frozen=True, kw_only=True)
class _Stored(Environment):
    """What all manifests hold.

    Attributes:
        schema: Schema version of the folder; 1 where none is stored.
        configuration: Everything that decides the result; a folder is resumed only by a command
            whose configuration is equal. Settings and hashes, as they were at the time.
    """

    schema: int = UNNUMBERED
    configuration: Mapping[str, Any]

    @staticmethod
    def from_earlier(value: dict[str, Any]) -> dict[str, Any]:
        """Return an object of this version; early ones stored a bare commit."""
        commit = value.get("git")
        return value | {"git": {"commit": commit}} if isinstance(commit, str) else value

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return {"schema": self.schema} | to_json(self)


class Roof(NamedTuple):
    """The bandwidth that decoding is held against.

    Attributes:
        of: Whether it is that of a large read, or of a large copy as in early versions.
        bandwidth: Bytes a second.
    """

    of: Literal["read", "copy"]
    bandwidth: float


@dataclass(frozen=True, kw_only=True)
class Manifest(_Stored):
    """`manifest.json` of a run, written before its first token.

    Attributes:
        model: Name of the model family.
        runtime: Device, precision, kernel, engine and threads.
        engines: The engine of each role's passes, and how it was found; empty in earlier versions.
        products: The kernels of the products of each role on a CPU, and how they were found; empty
            with `--products plain` and in earlier versions.
        repeats: How often every method answers every question.
        seed: Seed of order, sampled replies and statistics.
        sampling: How tokens are chosen; greedy where an earlier version does not say.
        sandbox: What programs were kept from, where a task ran what a model wrote; else null.
        baseline: Label of the method that all others are compared with.
        copy_bandwidth: Bytes a second that a large copy moves on the device, read and written
            bytes both counted; null where it was not measured.
        checkpoints: The weights that sessions ran, by role; empty in earlier versions.
        sources: Where the weights come from, by role, of all roles that a method uses; empty in
            earlier versions, whose `configuration` has the fingerprints.
        read_bandwidth: Bytes a second that a large read moves on the device: the roof that shares
            of bandwidth are of; null where it was not measured and in earlier versions, whose
            shares are of the copy's.
        flushed_bytes: Bytes that were overwritten before each timed reply, so that no method found
            weights in the caches; 0 without `--flush-caches`.
        cells: The methods, the baseline first.
        tasks: The tasks, in the order in which they were asked.
    """

    model: str
    runtime: Runtime
    engines: Mapping[str, EngineChoice] = field(default_factory=dict)
    products: Mapping[str, ProductChoice] = field(default_factory=dict)
    repeats: int
    seed: int
    sampling: Sampling = field(default_factory=Sampling)
    sandbox: Mapping[str, Any] | None = None
    baseline: str
    copy_bandwidth: float | None = None
    checkpoints: Mapping[str, CheckpointEntry] = field(default_factory=dict)
    sources: Mapping[str, CheckpointSource] = field(default_factory=dict)
    read_bandwidth: float | None = None
    flushed_bytes: int = 0
    cells: tuple[MethodEntry, ...]
    tasks: tuple[TaskEntry, ...]

    @property
    def roof(self) -> Roof | None:
        """What shares of bandwidth are of, if it was measured."""
        if self.read_bandwidth:
            return Roof("read", self.read_bandwidth)
        return Roof("copy", self.copy_bandwidth) if self.copy_bandwidth else None

    @property
    def used_sources(self) -> Mapping[str, CheckpointSource]:
        """Where the weights of each role come from that a method uses, as far as it is stored."""
        if self.sources:
            return self.sources
        fingerprints = self.configuration.get("checkpoints", {})
        used = [cell.checkpoint for cell in self.cells]
        settings = [each for cell in self.cells for each in cell.settings.values()]
        used += [each for each in settings if isinstance(each, str)]  # such as a draft's role
        return {
            role: CheckpointSource(fingerprint=str(fingerprints[role]))
            for role in dict.fromkeys(used)
            if role in fingerprints
        }

    @property
    def quantised(self) -> dict[str, Quantisation]:
        """What the roles with quantised weights are run as."""
        found = {role: entry.quantised for role, entry in self.checkpoints.items()}
        return {role: quantised for role, quantised in found.items() if quantised is not None}

    def cell(self, method: str) -> MethodEntry | None:
        """Return the method with a label, if the run has it."""
        return next((each for each in self.cells if each.method == method), None)

    def task(self, label: str) -> TaskEntry:
        """Return the task with a label."""
        return next(each for each in self.tasks if each.task == label)


@dataclass(frozen=True, kw_only=True)
class TrainingQuestions:
    """What a task gave to a training.

    Attributes:
        source: Where the questions come from.
        questions: How many there are.
    """

    source: str
    questions: int


@dataclass(frozen=True, kw_only=True)
class AblationManifest(_Stored):
    """`manifest.json` of an ablation, written before the first training.

    Attributes:
        training_questions: What was learned from, by task.
        sandbox: As in a run's manifest.
    """

    training_questions: Mapping[str, TrainingQuestions]
    sandbox: Mapping[str, Any] | None = None
