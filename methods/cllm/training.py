"""The recipe `cllm` at work on one job: collecting, fitting, exporting."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cllm_bench.contracts import TrainingJob
from cllm_bench.errors import TrainingCollapsed
from cllm_bench.machine.processes import is_main, on_main

from ..jacobi.method import Jacobi, JacobiDecoder
from ..recipes.examples import Answers
from ..recipes.export import leave_checkpoint, parent_of
from ..trajectories.collect import CollectionSettings, Record, decoder_for
from ..trajectories.target_answers import TargetAnswers, TaskQuestion, as_it_runs, examples_of
from .batches import answers_of, cllm_loss, make_batch
from .evaluation import Watch, collapsed
from .states import Answer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from cllm_bench.engine.family import ModelFamily

    from .recipe import CllmRecipe


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
    held_out: Sequence[TaskQuestion]
    questions: Sequence[TaskQuestion]

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
    def _asked(self) -> TargetAnswers:
        # What the data set gives no answer to is watched by the target's own.
        unanswered = [each for each in self.held_out if not each.sample.reference]
        return TargetAnswers(self.job, self._work, self.questions, unanswered)

    def _collect(self, round_: int, folder: Path) -> None:
        self._asked.collect(
            folder,
            full=self.recipe.states == "recorded",
            block_size=self.recipe.recorded_block(round_),
            decoder_of=partial(self._decoder, round_),
        )

    def _decoder(self, round_: int, settings: CollectionSettings) -> JacobiDecoder:
        """Return a decoder on the target, or on what the round before has made of it.

        A family of its own, so that these weights are dropped when the collection is done.
        """
        family = as_it_runs(self.job.family)
        decoder = decoder_for(family, "target", settings)
        decoder.settings = replace(decoder.settings, guess=self.recipe.guess)
        if round_ > 0:
            family.model("target").load_state_dict(self._trained(round_ - 1))
        return decoder

    def _trained(self, round_: int) -> dict[str, Tensor]:
        from cllm_bench.training.trainer import trained_state

        return trained_state(self._work / f"fit-{round_ + 1}")

    def _fit(self, round_: int, folder: Path) -> None:
        from cllm_bench.training.trainer import Optimiser, OptimiserSettings

        recipe, states = self.recipe, self.recipe.states_of(round_, self.job)
        answers, watch = self._material(round_, folder)
        data = Answers(answers, recipe.tokens, recipe.seed)
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
                watch,
                recipe.evaluate_every,
                collapsed,
            )
        except TrainingCollapsed as error:
            kept = on_main(lambda: self._leave_good(round_, folder))
            raise TrainingCollapsed(f"{error}{kept}") from None

    def _material(self, round_: int, folder: Path) -> tuple[list[Answer], Watch]:
        """Return what a round learns from, and what watches it."""
        held_out, records = self._asked.records(self._work / f"collect-{round_ + 1}")
        answers = self._answers(records, folder, begun=round_ > 0)
        return answers, self._watch(self.recipe.block_of(round_), held_out)

    def _answers(self, records: Sequence[Record], folder: Path, *, begun: bool) -> list[Answer]:
        """Clean and augment a round's records; leave a report of what that did."""
        kept = self._asked.cleaned(
            records,
            folder,
            clean=self.recipe.clean,
            finished=self.recipe.finished,
            augment=self.recipe.augment if self.recipe.states == "recorded" else 0.0,
            seed=self.recipe.seed,
            begun=begun,
        )
        references = None
        if self.recipe.ar_labels == "reference":
            asked = (each for questions in self._asked.asked.values() for each in questions)
            references = {(each.task, each.sample): each.reference for each in asked}
        return answers_of(kept, self.recipe.copies, references)

    def _watch(self, block_size: int, records: Sequence[Record]) -> Watch:
        """Return what watches the held-out questions; the records answer some of them."""
        family, found = self.job.family, examples_of(records)
        settings = Jacobi(block_size, guess=self.recipe.guess)
        asked = [
            each._replace(example=found.get((each.label, each.sample.id), each.example))
            for each in self.held_out
        ]
        return Watch(asked, family.tokenizer, family.stop_ids, settings, family.pad_id)

    def _model(self, round_: int = 0) -> PreTrainedModel:
        """Return the weights with which a round begins."""
        from cllm_bench.engine.loading import load_weights

        family: ModelFamily = self.job.family
        runtime = replace(family.runtime, attention=self.recipe.attention)
        model = load_weights(family.checkpoint(self.recipe.init), runtime)
        # The method reads it: a checkpoint decodes best as it was trained.
        model.config.cllm = {"block_size": self.recipe.block_of(round_), "guess": self.recipe.guess}
        if round_ > 0:
            model.load_state_dict(self._trained(round_ - 1))
        return model

    def _leave_good(self, round_: int, folder: Path) -> str:
        """Leave the last good weights of a collapsed fit as a checkpoint; say where it is."""
        from cllm_bench.training.trainer import GOOD, trained_state

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
        target, family = self.job.output / self.recipe.role, self.job.family
        parent = parent_of(self.recipe, family)
        leave_checkpoint(model, family.tokenizer, target, self._work, fit, parent)
