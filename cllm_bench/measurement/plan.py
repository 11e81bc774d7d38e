"""The plan of a run, fixed before anything is measured: questions, order, configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from cllm_bench.contracts import (
    ChatTask,
    JudgedTask,
    Sample,
    SampleSet,
    Sampling,
    ScoredText,
    Source,
    Task,
    TextTask,
)
from cllm_bench.core.sample_ids import draw_ids, question_of
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.core.settings import as_dict, label
from cllm_bench.engine.family import ModelFamily
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import code_hash, code_place, environment, machine, versions
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.phases import split_into_phases
from cllm_bench.measurement.turn_orders import balanced_orders
from cllm_bench.results.folder import row_key
from cllm_bench.results.manifest import (
    CheckpointEntry,
    CheckpointSource,
    Manifest,
    MethodEntry,
    TaskEntry,
)

# Questions of a task, at regular places, that the baseline answers once more (A/A).
AGAIN = 50


@dataclass(frozen=True)
class TaskPlan:
    """A task and the questions that will be asked.

    Attributes:
        label: The text that selects it.
        task: The settings.
        found: All questions of the source, and what is known about them.
        samples: Those that will be asked.
        text: What the perplexity is measured on, for a task whose score it is.
    """

    label: str
    task: Task
    found: SampleSet
    samples: tuple[Sample, ...]
    text: ScoredText | None = None

    def turns(self, sample: Sample) -> int:
        """Return the number of turns of a sample."""
        return self.task.turns(sample) if isinstance(self.task, ChatTask) else 1

    def asked_of(self, spec: MethodSpec) -> Sequence[Sample]:
        """Return the samples that a method is asked: all, or `AGAIN` of them for the A/A row."""
        count = len(self.samples)
        if not spec.again or count <= AGAIN:
            return self.samples
        return [self.samples[place * count // AGAIN] for place in range(AGAIN)]

    def replies(self, spec: MethodSpec) -> int:
        """Return the number of turns that a method is asked."""
        return sum(map(self.turns, self.asked_of(spec)))

    def turn_id(self, sample: Sample, turn: int) -> str:
        """Return the id of a turn, counted from 0, as rows have it."""
        return f"{sample.id}/turn-{turn + 1}" if isinstance(self.task, ChatTask) else sample.id


class Round(NamedTuple):
    """One question, asked once of every method of a phase that it is asked of."""

    plan: TaskPlan
    sample: Sample
    repeat: int
    specs: tuple[MethodSpec, ...]  # in the order of asking
    phase: int = 0


@dataclass
class WeightFacts:
    """What a manifest says of weights, gathered phase by phase while they are loaded.

    Attributes:
        cells: The entry of each method, by its label.
        checkpoints: The entry of each role that sessions run.
    """

    cells: dict[str, MethodEntry] = field(default_factory=dict)
    checkpoints: dict[str, CheckpointEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """A whole run.

    Attributes:
        family: Checkpoints, with a resolved runtime.
        specs: The target's baseline first.
        tasks: In the order asked for.
        repeats: Times that every method answers every question.
        seed: Of the order and of the statistics.
        sampling: How tokens are chosen.
        sandbox: What programs are kept from, where a task runs what a model writes.
        flush_caches: Whether the caches are emptied before each timed reply.
        phased: Whether the checkpoints are loaded one set at a time, each for all questions.
    """

    family: ModelFamily
    specs: tuple[MethodSpec, ...]
    tasks: tuple[TaskPlan, ...]
    repeats: int
    seed: int
    sampling: Sampling
    sandbox: Mapping[str, Any] | None = None
    flush_caches: bool = False
    phased: bool = False

    @cached_property
    def phases(self) -> tuple[tuple[MethodSpec, ...], ...]:
        """The methods that are loaded together and take turns: all of them, or a set at a time."""
        return split_into_phases(self.specs) if self.phased else (self.specs,)

    def rounds(self) -> Iterator[Round]:
        """Yield the rounds in order, phase by phase.

        Repeats of a question lie far apart, so that their spread shows the machine's drift; the
        methods, shuffled once a task, take turns in balanced orders: those of rounds with as many
        methods are balanced among themselves.
        """
        for phase, specs in enumerate(self.phases):
            for plan in self.tasks:
                yield from self._rounds(plan, phase, specs)

    def _rounds(self, plan: TaskPlan, phase: int, specs: Sequence[MethodSpec]) -> Iterator[Round]:
        shuffled = list(specs)
        random.Random(f"{self.seed}/{plan.label}").shuffle(shuffled)
        asked = {spec.label: {each.id for each in plan.asked_of(spec)} for spec in shuffled}
        for repeat in range(self.repeats):
            rounds = Counter[int]()
            for sample in plan.samples:
                asking = [spec for spec in shuffled if sample.id in asked[spec.label]]
                orders = balanced_orders(len(asking))
                order = orders[(rounds[len(asking)] + repeat) % len(orders)]
                rounds[len(asking)] += 1
                yield Round(plan, sample, repeat, tuple(asking[place] for place in order), phase)

    def sampling_of(self, task: TaskPlan, sample: Sample, turn: int) -> Sampling:
        """Return how one reply is chosen: its seed is its own, the same for every method.

        Repeats share it too: they measure the same reply again.
        """
        text = f"{self.seed}/{task.label}/{task.turn_id(sample, turn)}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return dataclasses.replace(self.sampling, seed=seed)

    def key(self, task: TaskPlan, sample: Sample, turn: int, spec: MethodSpec, repeat: int) -> str:
        """Return the resume key of one row of this run."""
        return row_key(
            task=task.label,
            data=task.found.fingerprint,
            sample=task.turn_id(sample, turn),
            method=spec.label,
            repeat=repeat,
        )

    def text_key(self, task: TaskPlan, role: str) -> str:
        """Return the resume key of one perplexity of this run."""
        return row_key(task=task.label, text=_text_digest(task), checkpoint=role)

    def configuration(self) -> dict[str, Any]:
        """Return everything that decides the result; a run resumes only what is equal in it."""
        from cllm_bench.engine.loading import fingerprint

        roles = self.family.roles
        return {
            "model": self.family.name,
            "checkpoints": {role: fingerprint(roles[role]) for role in sorted(roles)},
            "methods": {spec.label: as_dict(spec.method) for spec in self.specs},
            "tasks": {
                plan.label: {
                    "settings": as_dict(plan.task),
                    "data": plan.found.fingerprint,
                    "template": plan.found.template,
                    "samples": [sample.id for sample in plan.samples],
                    "text": _text_digest(plan),
                }
                for plan in self.tasks
            },
            "repeats": self.repeats,
            "seed": self.seed,
            "sampling": dataclasses.asdict(self.sampling),
            "flush_caches": self.flush_caches,
            "phased": self.phased,
            "runtime": dataclasses.asdict(self.family.runtime),
            "machine": machine_identity(self.family.runtime.device),
            "versions": versions(),
            "code": self._code(),
        }

    def _code(self) -> dict[str, str]:
        """Return hashes of what runs: edited code never goes on with the rows of the old."""
        classes: list[type] = [RunPlan]
        classes += [type(spec.method) for spec in self.specs]
        classes += [type(plan.task) for plan in self.tasks]
        places = {code_place(cls) for cls in classes}
        return {place.name: code_hash(place) for place in sorted(places)}

    def manifest(self, weights: WeightFacts, flushed_bytes: int = 0) -> Manifest:
        """Return the whole manifest.

        Args:
            weights: What was found out of those of all phases.
            flushed_bytes: Overwritten before each timed reply.
        """
        from cllm_bench.machine.roofline import bandwidth

        runtime = self.family.runtime
        measured = bandwidth(runtime.device)
        configuration = self.configuration()
        return Manifest(
            schema=SCHEMA,
            **vars(environment(runtime.device)),
            configuration=configuration,
            model=self.family.name,
            runtime=runtime,
            engines=dict(self.family.engines),
            products=dict(self.family.products),
            repeats=self.repeats,
            seed=self.seed,
            sampling=self.sampling,
            sandbox=self.sandbox,
            baseline=self.specs[0].label,
            copy_bandwidth=measured and measured.copy,
            read_bandwidth=measured and measured.read,
            flushed_bytes=flushed_bytes,
            checkpoints=weights.checkpoints,
            sources=self._sources(configuration["checkpoints"]),
            cells=tuple(weights.cells[spec.label] for spec in self.specs),
            tasks=tuple(
                _describe_task(plan, {spec.label: plan.replies(spec) for spec in self.specs})
                for plan in self.tasks
            ),
        )

    def _sources(self, fingerprints: Mapping[str, str]) -> dict[str, CheckpointSource]:
        """Return where the weights come from, of every role that a method uses."""
        found = {}
        for role in dict.fromkeys(role for spec in self.specs for role in spec.roles):
            checkpoint = self.family.checkpoint(role)
            kind, location = checkpoint.origin
            found[role] = CheckpointSource(
                kind=kind,
                location=location,
                revision=checkpoint.revision,
                fingerprint=fingerprints[role],
            )
        return found

    def describe_weights(self, phase: int, extra_parameters: Mapping[str, int]) -> WeightFacts:
        """Return what a manifest says of the weights of a phase, which are loaded.

        Args:
            phase: Its number.
            extra_parameters: By spec, those that it needs beside its checkpoint's.
        """
        return WeightFacts(
            {
                spec.label: self._describe(spec, phase, extra_parameters.get(spec.label, 0))
                for spec in self.phases[phase]
            },
            {role: self._describe_checkpoint(role) for role in self.family.loaded},
        )

    def _describe_checkpoint(self, role: str) -> CheckpointEntry:
        from cllm_bench.engine.fused_layers import fused_layers_of
        from cllm_bench.engine.positions import attention_window

        model = self.family.model(role)
        return CheckpointEntry(
            layers=int(model.config.get_text_config().num_hidden_layers),
            fused_layers=len(fused_layers_of(model)),
            window=attention_window(model.config),
            quantised=self.family.quantised(role),
        )

    def _describe(self, spec: MethodSpec, phase: int, extra_parameters: int) -> MethodEntry:
        from cllm_bench.machine.roofline import cache_bytes, weight_bytes

        model = self.family.model(spec.checkpoint)
        return MethodEntry(
            method=spec.label,
            name=spec.name,
            settings=as_dict(spec.method),
            checkpoint=spec.checkpoint,
            exactness=spec.exactness,
            baseline=spec.baseline,
            again=spec.again,
            phase=phase,
            parameters=self.family.parameters(spec.checkpoint),
            weight_bytes=weight_bytes(model),
            cache_bytes_per_token=cache_bytes(model),
            extra_parameters=extra_parameters,
        )


def _text_digest(plan: TaskPlan) -> str | None:
    if plan.text is None:
        return None
    return hashlib.sha256(json.dumps(dataclasses.asdict(plan.text)).encode()).hexdigest()


def _describe_task(plan: TaskPlan, asked: Mapping[str, int]) -> TaskEntry:
    return TaskEntry(
        task=plan.label,
        source=plan.found.label,
        samples=len({question_of(sample.id) for sample in plan.samples}),
        replies=sum(map(plan.turns, plan.samples)),
        left_out={reason: tuple(ids) for reason, ids in plan.found.left_out.items()},
        notes=tuple(plan.found.notes),
        template=plan.found.template,
        metric=plan.task.metric,
        best_score=float(plan.task.best_score),
        best_of=getattr(plan.task, "best_of", 1),
        judged=isinstance(plan.task, JudgedTask),
        max_new_tokens=plan.task.max_new_tokens,
        asked=asked,
    )


def machine_identity(device: str) -> dict[str, Any]:
    """Return what must not change between the parts of one run, or times could not be paired."""
    found = machine(device)
    identity = {"cpu": found.cpu, "cores": found.cores, "gpu": found.gpu}
    return {key: value for key, value in identity.items() if value is not None}


def plan_task(
    name: str, task: Task, source: Source, limit: int | None, sampling: Sampling
) -> TaskPlan:
    """Load a task's questions.

    Raises:
        UserError: The source is not there, or has no questions; or several draws would be equal.
    """
    draws = getattr(task, "draws", 1)
    if draws > 1 and sampling.temperature == 0:
        raise UserError(
            f"{name}: draws={draws} are all the same when greedy; give a --temperature above 0"
        )
    found = task.samples(source)
    if not found.samples:
        raise UserError(f"task '{name}' ({found.label}) has no questions that run here")
    text = task.text(source) if isinstance(task, TextTask) else None
    samples = tuple(
        dataclasses.replace(sample, id=own)
        for sample in found.samples[:limit]
        for own in draw_ids(sample.id, draws)
    )
    return TaskPlan(label(name, task), task, found, samples, text)
