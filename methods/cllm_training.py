"""The recipe `cllm` at work on one job: collecting, fitting, exporting."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cllm_bench.contracts import TrainingJob
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.files import write_atomically
from cllm_bench.processes import is_main, on_main, rank, world_size

from .answers import Answers, encode
from .cleaning import prepare
from .cllm_batches import Answer, answers_of, cllm_loss, make_batch
from .cllm_watch import HeldOut, Watch, collapsed
from .collection import CollectionSettings, Question, Record, collect, decoder_for, read_records
from .export import leave_checkpoint
from .jacobi import Jacobi, JacobiDecoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cllm_bench.family import ModelFamily

    from .cllm_recipe import CllmRecipe

CLEANING = "cleaning.json"


def split_questions(recipe: CllmRecipe, job: TrainingJob) -> tuple[list[HeldOut], list[HeldOut]]:
    """Return the questions to watch, and those to learn from, of all tasks in a seeded order.

    Raises:
        UserError: There are too few.
    """
    count = sum(len(samples.samples) for _, samples in job.tasks.values())
    if count <= recipe.held_out:
        raise UserError(
            f"cllm: {count} training questions are too few, for held_out={recipe.held_out} of "
            "them are not trained on; give more, or lower it"
        )
    found: list[HeldOut] = []
    for task, samples in job.tasks.values():
        if not samples.samples:
            continue
        examples = encode(samples.samples, job.family.tokenizer)
        pairs = zip(samples.samples, examples, strict=True)
        found += [HeldOut(task, sample, example) for sample, example in pairs]
    random.Random(recipe.seed).shuffle(found)
    held_out, rest = found[: recipe.held_out], found[recipe.held_out :]
    if recipe.questions > len(rest):
        raise UserError(
            f"cllm: questions={recipe.questions}, and there are {len(rest)} beside the "
            f"{recipe.held_out} held out; lower it, or give 0 for all"
        )
    return held_out, rest[: recipe.questions or None]


@dataclass(frozen=True)
class CllmTraining:
    """The recipe at work on one job.

    Attributes:
        recipe: Its settings.
        job: What to do.
        held_out: Questions to watch.
        questions: Those to learn from.
    """

    recipe: CllmRecipe
    job: TrainingJob
    held_out: Sequence[HeldOut]
    questions: Sequence[HeldOut]

    def collecting(self, round_: int) -> Callable[[Path], None]:
        """Return the stage that collects for a round, counted from 0."""
        return partial(self._collect, round_)

    def fitting(self, round_: int) -> Callable[[Path], None]:
        """Return the stage that fits in a round, counted from 0."""
        return partial(self._fit, round_)

    @property
    def _work(self) -> Path:
        return self.job.output / "training" / self.recipe.role

    @cached_property
    def _asked(self) -> dict[str, list[Question]]:
        """The questions to learn from, by task."""
        names = {id(task): name for name, (task, _) in self.job.tasks.items()}
        found: dict[str, list[Question]] = {name: [] for name in self.job.tasks}
        for task, sample, (prompt, answer) in self.questions:
            name = names[id(task)]
            found[name].append(Question(sample.id, name, tuple(prompt), tuple(answer)))
        return {name: questions for name, questions in found.items() if questions}

    def _collect(self, round_: int, folder: Path) -> None:
        decoder: JacobiDecoder | None = None
        for name, questions in self._asked.items():
            settings = CollectionSettings(
                max_new_tokens=self.job.tasks[name][0].max_new_tokens,
                stop_ids=self.job.family.stop_ids,
                block_size=self.recipe.recorded_block(round_),
                full=self.recipe.states == "recorded",
            )
            if decoder is None:
                decoder = self._decoder(round_, settings)
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

    def _decoder(self, round_: int, settings: CollectionSettings) -> JacobiDecoder:
        """Return a decoder on the target, or on what the round before has made of it.

        A family of its own, so that these weights are dropped when the collection is done.
        """
        family = self.job.family
        runtime = replace(family.runtime, dtype="auto").resolve()  # as a run would decode
        family = replace(family, runtime=runtime)
        decoder = decoder_for(family, "target", settings)
        decoder.settings = replace(decoder.settings, guess=self.recipe.guess)
        if round_ > 0:
            family.model("target").load_state_dict(self._trained(round_ - 1))
        return decoder

    def _trained(self, round_: int) -> dict[str, Tensor]:
        from cllm_bench.optimise import trained_state

        return trained_state(self._work / f"fit-{round_ + 1}")

    def _fit(self, round_: int, folder: Path) -> None:
        from cllm_bench.optimise import Optimiser, OptimiserSettings

        recipe, states = self.recipe, self.recipe.states_of(round_, self.job.family)
        data = Answers(self._answers(round_, folder), recipe.tokens, recipe.seed)
        settings = OptimiserSettings(
            recipe.steps or -(-data.batches // recipe.accumulate),
            recipe.learning_rate,
            warm_up=recipe.warm_up,
            floor=0.0,
            weight_decay=0.0,
            accumulate=recipe.accumulate,
            precision=recipe.precision,
            gradient_checkpointing=recipe.gradient_checkpointing,
            lora_rank=recipe.lora_rank,
            trackers=recipe.trackers,
            seed=recipe.seed,
        )
        try:
            optimiser = Optimiser(self._model(round_), settings, folder, self.job.listen)
            optimiser.fit(
                lambda number: make_batch(
                    data.batch(number), states, random.Random(f"{recipe.seed}/{number}")
                ),
                lambda model, batch: cllm_loss(model, batch, states),
                self._watch(states.block_size),
                recipe.evaluate_every,
                collapsed,
            )
        except TrainingCollapsed as error:
            kept = on_main(lambda: self._leave_good(round_, folder))
            raise TrainingCollapsed(f"{error}{kept}") from None

    def _answers(self, round_: int, folder: Path) -> list[Answer]:
        """Read a round's records, clean and augment them; leave a report of what that did."""
        records: list[Record] = []
        for name in self._asked:
            records += read_records(self._work / f"collect-{round_ + 1}" / name)
        tokenizer = self.job.family.tokenizer
        recorded = self.recipe.states == "recorded"
        kept, report = prepare(
            records,
            augment=self.recipe.augment if recorded else 0.0,
            clean=self.recipe.clean,
            unfinished=self.recipe.finished,
            seed=self.recipe.seed,
            decode=lambda ids: str(tokenizer.decode(list(ids))),
        )
        report["questions"] = len(self.questions)
        text = json.dumps(report, indent=2) + "\n"
        on_main(lambda: write_atomically(folder / CLEANING, text))
        if not kept:
            self._refuse_nothing(round_, report)
        references = None
        if self.recipe.ar_labels == "reference":
            asked = (each for questions in self._asked.values() for each in questions)
            references = {(each.task, each.sample): each.reference for each in asked}
        return answers_of(kept, self.recipe.copies, references)

    def _refuse_nothing(self, round_: int, report: Mapping[str, Any]) -> NoReturn:
        if round_ == 0:
            # Nothing is fitted yet, and the collection serves other settings as well: the folder
            # must not stand in the way of a corrected command.
            on_main(lambda: (self._work / "manifest.json").unlink(missing_ok=True))
        if not report["answers"]:
            raise UserError(
                f"none of {report['questions']} training questions leaves the target room for an "
                "answer; give shorter ones"
            )
        reasons = {name: each["answers"] for name, each in report["dropped"].items()}
        remedies = ["finished=false"] if "unfinished" in reasons else []
        remedies += ["clean=false"] if reasons.keys() - {"unfinished"} else []
        counts = ", ".join(f"{name} {count}" for name, count in reasons.items())
        raise UserError(
            f"cleaning left none of {report['answers']} answers to learn from ({counts}); train "
            f"with {','.join(remedies)}, or give other questions"
        )

    def _watch(self, block_size: int) -> Watch:
        family = self.job.family
        settings = Jacobi(block_size, guess=self.recipe.guess)
        return Watch(self.held_out, family.tokenizer, family.stop_ids, settings, family.pad_id)

    def _model(self, round_: int = 0) -> PreTrainedModel:
        """Return the weights with which a round begins."""
        from cllm_bench.loading import load_weights

        family: ModelFamily = self.job.family
        runtime = replace(family.runtime, attention=self.recipe.attention)
        model = load_weights(family.checkpoint("target"), runtime)
        # The method reads it: a checkpoint decodes best as it was trained.
        model.config.cllm = {"block_size": self.recipe.block_of(round_), "guess": self.recipe.guess}
        if round_ > 0:
            model.load_state_dict(self._trained(round_ - 1))
        return model

    def _leave_good(self, round_: int, folder: Path) -> str:
        """Leave the last good weights of a collapsed fit as a checkpoint; say where it is."""
        from cllm_bench.optimise import GOOD, trained_state

        if not (folder / GOOD).exists():
            return ""
        target = folder / "last-good"
        if not target.exists():
            model = self._model(round_)
            model.load_state_dict(trained_state(folder, GOOD))
            leave_checkpoint(model, self.job.family.tokenizer, target, self._work, folder)
        return f"; as a checkpoint: --role {self.recipe.role}={target}"

    def export(self, folder: Path) -> None:
        """Leave the checkpoint in Hugging Face's layout, with its log and settings."""
        if not is_main():
            return
        last = self.recipe.rounds - 1
        model = self._model(last)
        model.load_state_dict(self._trained(last))
        fit = self._work / f"fit-{last + 1}"
        tokenizer = self.job.family.tokenizer
        leave_checkpoint(model, tokenizer, self.job.output / self.recipe.role, self._work, fit)
