"""The questions of a recipe and the target's own answers to them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeVar

from cllm_bench.contracts import Sample, Stage, Task, TrainingJob
from cllm_bench.core.files import write_atomically
from cllm_bench.decoding.stop_strings import ends_of
from cllm_bench.errors import UserError
from cllm_bench.machine.processes import on_main, rank, world_size

from ..recipes.base import FittedRecipe, RecipeRun
from ..recipes.examples import Example, encode, refuse_unanswered
from .cleaning import prepare
from .collect import CollectionSettings, Question, Record, collect, decoder_for, read_records

if TYPE_CHECKING:
    from cllm_bench.engine.family import ModelFamily

    from ..jacobi.method import JacobiDecoder

CLEANING = "cleaning.json"
RECORDED_BLOCK = 16  # of records that hold fixed points only; nothing depends on it


class TaskQuestion(NamedTuple):
    """A question of a task, and the data set's own answer to it as ids: the end alone for none."""

    label: str  # of the task
    task: Task
    sample: Sample
    example: Example


class Choice(Protocol):
    """Settings of a recipe: which questions it takes."""

    @property
    def role(self) -> str:
        """The role that it builds, named in errors."""
        ...

    @property
    def questions(self) -> int:
        """Those to learn from; 0 is all."""
        ...

    @property
    def held_out(self) -> int:
        """Those kept for watching."""
        ...

    @property
    def seed(self) -> int:
        """Of their order."""
        ...


def split_questions(
    recipe: Choice, job: TrainingJob, *, references: bool = False
) -> tuple[list[TaskQuestion], list[TaskQuestion]]:
    """Return the questions to watch, and those to learn from, of all tasks in a seeded order.

    Args:
        recipe: Its choice.
        job: Its tasks.
        references: Whether the data set's own answers are learnt from.

    Raises:
        UserError: There are too few, or no recipe can learn from them: see `refuse_unanswered`.
    """
    refuse_unanswered(recipe.role, job.tasks, references=references)
    count = sum(len(samples.samples) for _, samples in job.tasks.values())
    if count <= recipe.held_out:
        raise UserError(
            f"{recipe.role}: {count} training questions are too few, for held_out="
            f"{recipe.held_out} of them are not trained on; give more, or lower it"
        )
    found: list[TaskQuestion] = []
    for label, (task, samples) in job.tasks.items():
        if not samples.samples:
            continue
        examples = encode(samples.samples, job.family.tokenizer)
        pairs = zip(samples.samples, examples, strict=True)
        found += [TaskQuestion(label, task, sample, example) for sample, example in pairs]
    random.Random(recipe.seed).shuffle(found)
    held_out, rest = found[: recipe.held_out], found[recipe.held_out :]
    if recipe.questions > len(rest):
        raise UserError(
            f"{recipe.role}: questions={recipe.questions}, and there are {len(rest)} beside the "
            f"{recipe.held_out} held out; lower it, or give 0 for all"
        )
    return held_out, rest[: recipe.questions or None]


def collection_key(job: TrainingJob, own: Sequence[Any]) -> str:
    """Hash what decides a collection from the target, so that trainings can share it.

    Args:
        job: Its tasks, target and device count.
        own: Settings of the recipe that count too.
    """
    from cllm_bench.engine.loading import fingerprint

    tasks = {
        name: (found.fingerprint, len(found.samples), task.max_new_tokens, sorted(task.stop))
        for name, (task, found) in job.tasks.items()
    }
    target = fingerprint(job.family.checkpoint("target"))
    decisive = (target, tasks, own, job.family.runtime.device)
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def as_it_runs(family: ModelFamily) -> ModelFamily:
    """Return the family in the precision of a run, with weights of its own.

    Weights to train are in float32; answers are collected as the target will be decoded.
    """
    return family.unloaded(runtime=replace(family.runtime, dtype="auto").resolve())


@dataclass(frozen=True)
class TargetAnswers:
    """The target's answers to a job's questions: collected once, by all processes, in shards.

    Attributes:
        job: What to do.
        work: Folder of the training.
        questions: Those to learn from.
        held_out: Those to watch, where their answers are wanted too.
    """

    job: TrainingJob
    work: Path
    questions: Sequence[TaskQuestion]
    held_out: Sequence[TaskQuestion] = ()

    @cached_property
    def asked(self) -> Mapping[str, list[Question]]:
        """All questions, by task."""
        found: dict[str, list[Question]] = {name: [] for name in self.job.tasks}
        for label, _, sample, (prompt, answer) in (*self.held_out, *self.questions):
            found[label].append(Question(sample.id, label, tuple(prompt), tuple(answer)))
        return {name: questions for name, questions in found.items() if questions}

    def collect(
        self,
        folder: Path,
        *,
        full: bool = False,
        block_size: int = RECORDED_BLOCK,
        decoder_of: Callable[[CollectionSettings], JacobiDecoder] | None = None,
    ) -> None:
        """Leave the records of every question that leaves room for an answer; resumes.

        Args:
            folder: Of the stage.
            full: Whether to keep whole trajectories, or fixed points alone, found fast.
            block_size: Of the records.
            decoder_of: Opens the decoder; default: one on the target.
        """
        decoder: JacobiDecoder | None = None
        for name, questions in self.asked.items():
            task, _ = self.job.tasks[name]
            settings = CollectionSettings(
                max_new_tokens=task.max_new_tokens,
                stop_ids=self.job.family.stop_ids,
                block_size=block_size,
                full=full,
                ends=ends_of(task.stop, self.job.family.tokenizer),
            )
            if decoder is None:
                decoder = (decoder_of or self._decoder)(settings)
            room = decoder.session.length + decoder.session.room
            collect(
                [each for each in questions if len(each.prompt) < room],
                decoder,
                folder=folder / name,
                settings=settings,
                listen=self.job.listen,
                rank=rank(),
                world_size=world_size(),
            )

    def _decoder(self, settings: CollectionSettings) -> JacobiDecoder:
        return decoder_for(as_it_runs(self.job.family), "target", settings)

    def records(self, collected: Path) -> tuple[list[Record], list[Record]]:
        """Return the records of a finished collection: of the held-out questions, and the others.

        Those of one answer stand together, in order.
        """
        watched = {(each.label, each.sample.id) for each in self.held_out}
        found = [each for name in self.asked for each in read_records(collected / name)]
        return (
            [each for each in found if (each.task, each.sample) in watched],
            [each for each in found if (each.task, each.sample) not in watched],
        )

    def examples(
        self, collected: Path, fit: Path, *, clean: bool, finished: bool
    ) -> tuple[list[Example], list[Example]]:
        """Return questions with the target's answers: all held-out ones, and those to learn from.

        Args:
            collected: Folder of the collection.
            fit: Gets the report of what was dropped.
            clean: Whether to drop answers to learn from that repeat themselves.
            finished: Whether to drop those that were cut by the limit.

        Raises:
            UserError: Nothing is left.
        """
        held_out, rest = self.records(collected)
        if self.held_out and not held_out:
            self._refuse_no_room(len(self.held_out), "held-out")
        kept = self.cleaned(rest, fit, clean=clean, finished=finished)
        return list(examples_of(held_out).values()), list(examples_of(kept).values())

    def cleaned(
        self,
        records: Sequence[Record],
        fit: Path,
        *,
        clean: bool,
        finished: bool,
        augment: float = 0.0,
        seed: int = 0,
        begun: bool = False,
    ) -> list[Record]:
        """Drop answers that would spoil a model, and leave a report of what that did.

        Args:
            records: Of the questions to learn from.
            fit: Gets the report.
            clean: Whether to drop answers that repeat themselves.
            finished: Whether to drop those that were cut by the limit.
            augment: See `cleaning.prepare`.
            seed: Of the augmentation.
            begun: Whether anything has been fitted before.

        Raises:
            UserError: Nothing is left.
        """
        tokenizer = self.job.family.tokenizer
        kept, report = prepare(
            records,
            augment=augment,
            clean=clean,
            unfinished=finished,
            seed=seed,
            decode=lambda ids: str(tokenizer.decode(list(ids))),
        )
        report["questions"] = len(self.questions)
        text = json.dumps(report, indent=2) + "\n"
        on_main(lambda: write_atomically(fit / CLEANING, text))
        if not kept:
            self._refuse_nothing(report, begun=begun)
        return kept

    def _refuse_nothing(self, report: Mapping[str, Any], *, begun: bool) -> NoReturn:
        if not begun:
            # The collection serves other settings as well: the folder must not stand in the way
            # of a corrected command.
            on_main(lambda: (self.work / "manifest.json").unlink(missing_ok=True))
        if not report["answers"]:
            self._refuse_no_room(report["questions"], "training")
        reasons = {name: each["answers"] for name, each in report["dropped"].items()}
        remedies = ["finished=false"] if "unfinished" in reasons else []
        remedies += ["clean=false"] if reasons.keys() - {"unfinished"} else []
        counts = ", ".join(f"{name} {count}" for name, count in reasons.items())
        raise UserError(
            f"cleaning left none of {report['answers']} answers to learn from ({counts}); train "
            f"with {','.join(remedies)}, or give other questions"
        )

    def _refuse_no_room(self, count: int, kind: str) -> NoReturn:
        raise UserError(
            f"none of {count} {kind} questions leaves the target room for an answer; give shorter "
            "ones"
        )


class Distilled(Choice, FittedRecipe, Protocol):
    """A recipe that learns from whole answers of the target."""

    role: ClassVar[str]

    @property
    def clean(self) -> bool:
        """Whether to drop answers that repeat themselves."""
        ...

    @property
    def finished(self) -> bool:
        """Whether to drop answers that were cut by the limit."""
        ...


R = TypeVar("R", bound=Distilled)


@dataclass(frozen=True)
class DistillationRun(RecipeRun[R]):
    """A recipe at work that learns from whole answers of the target, in a stage `collect`.

    Attributes:
        recipe: Its settings.
        job: What to do.
    """

    def stage(self) -> Stage:
        """Return the stage that collects.

        Raises:
            UserError: See `split_questions`.
        """
        recipe = self.recipe
        key = collection_key(self.job, (recipe.questions, recipe.held_out, recipe.seed))
        return Stage("collect", self.answers.collect, key)

    @cached_property
    def answers(self) -> TargetAnswers:
        """What the target answers."""
        held_out, questions = split_questions(self.recipe, self.job)
        return TargetAnswers(self.job, self.work, questions, held_out)

    def examples(self, fit: Path) -> tuple[list[Example], list[Example]]:
        """Return the examples to watch and those to learn from; leave a report beside the fit.

        Raises:
            UserError: Nothing is left.
        """
        collected = self.work / "collect"
        return self.answers.examples(
            collected, fit, clean=self.recipe.clean, finished=self.recipe.finished
        )


def examples_of(records: Sequence[Record]) -> dict[tuple[str, str], Example]:
    """Join the records of each answer, by task and sample.

    Those of one answer must stand together, in order.
    """
    found = {}
    for name, group in groupby(records, key=lambda record: (record.task, record.sample)):
        blocks = list(group)
        answer = [token for block in blocks for token in block.fixed_point]
        found[name] = Example(list(blocks[0].prompt), answer)
    return found
