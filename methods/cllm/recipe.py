"""The recipe `cllm`: trajectories of the target, and a checkpoint that learns to skip along them.

Source: Kou et al. 2024 (arXiv 2403.00835), Algorithms 1 and 2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cllm_bench.contracts import Divergence, Objective, Stage, TrainingJob
from cllm_bench.core.registry import Door
from cllm_bench.core.settings import as_dict, build, parse_selection
from cllm_bench.engine.runtime import Attention
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.machine.processes import is_main, on_main

from ..jacobi.method import Jacobi, JacobiDecoder
from ..recipes.base import RecipeRun, at_least
from ..recipes.export import leave_checkpoint
from ..trajectories.collect import CollectionSettings, Record, decoder_for
from ..trajectories.target_answers import (
    RECORDED_BLOCK,
    TargetAnswers,
    TaskQuestion,
    as_it_runs,
    collection_key,
    examples_of,
    split_questions,
)
from .batches import answers_of, cllm_loss, make_batch, rehearse
from .evaluation import Watch, collapsed
from .method import NOTED
from .states import Answer, States, Terms, mean_blocks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CllmRecipe:
    """Train a copy of the target to reach its own fixed points in fewer iterations.

    The defaults are the paper's; a family may have better ones of its own.

    Attributes:
        init: What training begins with: the `target`; or the family's own `cllm`, to train it
            further on the target's trajectories.
        questions: Training questions to collect trajectories from; 0 is all.
        block_size: Tokens in a block, n.
        states: `recorded` trains on states of the target's trajectories; `online` collects fixed
            points alone, which is many times faster, and makes states in the training pass: fresh
            guesses, and what the model in training makes of them.
        augment: Share of wrong tokens behind the first wrong one that is put right (recorded only).
        clean: Drop answers that repeat themselves.
        finished: Drop answers that were cut by the limit.
        rounds: Collections and fits; from the second on the model in training is collected from.
        growth: Factor by which the block grows from round to round.
        objective: `global`; `local`, for which iterations is 2 or more; `progressive`: earlier
            blocks are noisy too; or one of your own, `NAME` or `NAME:key=value;key=value`.
        divergence: Of the student from the teacher: `forward_kl`, `reverse_kl` or `jsd`.
        form: `packed`: all blocks of an answer in one pass; `single`: one block at a time.
        copies: States of every block in one pass, in chains of `iterations`.
        iterations: States in a chain, each one Jacobi iteration after the one before it.
        guess: Where fresh guesses come from: see the method `jacobi`.
        refill: As the checkpoint will be decoded: see the method `jacobi`. With `sliding`, states
            made online keep fresh guesses behind a random place, as sliding windows have them.
        ahead: Jacobi iterations, at most, that the model makes of a guess before the first state
            of a chain (online only); how many is drawn for every batch.
        shift: Let blocks begin anywhere in the answer (online only).
        window: Blocks that share a noisy context (progressive only).
        ar_weight: Weight of the AR loss, w.
        prompt_weight: Share of the AR loss that a prompt's token has, against 1 for an answer's.
        label_smoothing: Of the AR loss: the share of the probability that is spread evenly.
        anchor_weight: Weight of the divergence from the frozen target on prompts and answers, which
            keeps what no answer asks for, such as the perplexity of texts.
        normalise: What the consistency loss is divided by: `answers`, all answer tokens; or `rows`,
            those behind a wrong token, as the original does, so that it weighs more as it shrinks.
        ar_labels: What the AR loss is taken on: the collected answers or the data set's.
        steps: Optimiser steps in a round; 0 is `epochs`.
        epochs: Passes over the collected blocks in a round.
        tokens: Columns in a batch, copies and padding included.
        answers: Answers in a batch, however long they are; 0 fills `tokens`.
        accumulate: Batches to a step, over all processes.
        learning_rate: At its peak.
        warm_up: Share of the steps over which the rate rises.
        precision: Of the arithmetic; weights stay in float32 while they are trained.
        compile: Let TorchInductor fuse norms and feed-forward parts; it takes a C++ compiler.
        attention: Kernel while training: on CPUs in bf16 `plain` is the fastest.
        gradient_checkpointing: Compute activations twice in place of keeping them.
        lora_rank: Train adapters of that rank in place of the weights; 0 trains the weights.
        trackers: Name of one of Accelerate's trackers.
        held_out: Questions kept for watching.
        evaluate_every: Steps between looks at the held-out questions.
        seed: Of everything random.
    """

    role: ClassVar[str] = "cllm"

    init: Literal["target", "cllm"] = "target"
    questions: int = 0
    block_size: int = 16
    states: Literal["recorded", "online"] = "recorded"
    augment: float = 0.5
    clean: bool = True
    finished: bool = False
    rounds: int = 1
    growth: int = 1
    objective: str = "global"
    divergence: Divergence = "forward_kl"
    form: Literal["packed", "single"] = "packed"
    copies: int = 1
    iterations: int = 1
    guess: Literal["prompt", "vocab", "pad", "last"] = "prompt"
    refill: Literal["block", "sliding"] = "block"
    ahead: int = 0
    shift: bool = True
    window: int = 4
    ar_weight: float = 10.0
    prompt_weight: float = 0.0
    label_smoothing: float = 0.0
    anchor_weight: float = 0.0
    normalise: Literal["answers", "rows"] = "answers"
    ar_labels: Literal["generation", "reference"] = "generation"
    steps: int = 0
    epochs: float = 1.0
    tokens: int = 8192
    answers: int = 0
    accumulate: int = 1
    learning_rate: float = 2e-5
    warm_up: float = 0.03
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    trackers: str = ""
    held_out: int = 32
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "rounds", "growth", "copies", "iterations", "window")
        at_least(self, 1, "tokens", "accumulate", "held_out", "evaluate_every")
        at_least(self, 0, "questions", "steps", "answers", "lora_rank", "seed", "ahead")
        at_least(self, 0, "ar_weight", "prompt_weight", "anchor_weight", "label_smoothing")
        at_least(self, 2, "block_size")
        if self.epochs <= 0 or self.label_smoothing >= 1:
            raise UserError("cllm: epochs must be above 0, and label_smoothing below 1")
        if self.states == "recorded" and (self.refill == "sliding" or self.ahead):
            raise UserError(
                "cllm: recorded states are those of blocks: give states=online for refill=sliding "
                "or ahead"
            )
        if self.form == "single" and (self.prompt_weight or self.anchor_weight):
            raise UserError("cllm: prompt_weight and anchor_weight need form=packed")
        if not 0 <= self.augment <= 1:
            raise UserError(f"cllm: augment is a share between 0 and 1, not {self.augment}")
        if self.learning_rate <= 0 or not 0 <= self.warm_up < 1:
            raise UserError("cllm: learning_rate must be above 0, and warm_up from 0 to below 1")
        if self.copies % self.iterations:
            raise UserError(
                f"cllm: copies={self.copies} is no multiple of iterations={self.iterations}"
            )

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The target, and the CLLM that is trained further."""
        return ("target",) if self.init == "target" else ("target", self.role)

    def block_of(self, round_: int) -> int:
        """Return the block size of a round, counted from 0."""
        return int(self.block_size * self.growth**round_)

    def parts(self, job: TrainingJob) -> Sequence[type]:
        """Return the class of the objective."""
        return (type(self.objective_of(job.objectives)),)

    def objective_of(self, objectives: Door) -> Objective:
        """Return the objective; those of its settings that the recipe has too are the recipe's.

        Raises:
            UserError: There is no such objective, or the settings do not fit it.
        """
        selection = parse_selection(self.objective, separator=";")
        cls = objectives.get(selection.name)
        made: Objective = build(cls, "objective", selection, shared=as_dict(self))
        return made

    def states_of(self, round_: int, job: TrainingJob) -> States:
        """Return what the batches of a round hold."""
        return States(
            block_size=self.block_of(round_),
            source=self.states,
            copies=self.copies,
            iterations=self.iterations,
            guess=self.guess,
            pad_id=job.family.pad_id,
            vocabulary=job.family.vocabulary("target"),
            refill=self.refill,
            ahead=self.ahead,
            objective=self.objective_of(job.objectives),
            form=self.form,
            shift=self.shift,
            window=self.window,
            terms=Terms(
                ar_weight=self.ar_weight,
                prompt_weight=self.prompt_weight,
                label_smoothing=self.label_smoothing,
                anchor_weight=self.anchor_weight,
                counted=self.normalise == "rows",
            ),
            # Checkpointed layers compute their keys and values anew and so keep none.
            cached=self.form == "packed" and not self.gradient_checkpointing,
        )

    def ahead_of(self, step: int) -> int:
        """Return how many iterations ahead the chains of a step begin.

        All its batches alike: processes that share a model make the same passes in a step.
        """
        return random.Random(f"{self.seed}/ahead/{step}").randint(0, self.ahead)

    def decoding(self, round_: int) -> Jacobi:
        """Return how a round's model is decoded."""
        return Jacobi(self.block_of(round_), refill=self.refill, guess=self.guess)

    def recorded_block(self, round_: int) -> int:
        """Return the block size of a round's records."""
        return self.block_of(round_) if self.states == "recorded" else RECORDED_BLOCK

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return collect and fit for every round, then export."""
        self.objective_of(job.objectives)  # refuses what is not there or does not fit
        self._check_lengths(job)
        kept = [role for role in job.family.roles if role != self.role]  # that one is made anew
        for role in (*kept, self.init):
            job.family.refuse_tokenizer(role)
        rehearse(self.states_of(0, job))
        references = self.ar_labels == "reference"
        training = _Training(self, job, *split_questions(self, job, references=references))
        found = []
        for round_ in range(self.rounds):
            key = self._collection_key(job) if round_ == 0 else None
            found += [
                Stage(f"collect-{round_ + 1}", training.collecting(round_), key),
                Stage(f"fit-{round_ + 1}", training.fitting(round_)),
            ]
        return (*found, Stage("export", training.export))

    def _check_lengths(self, job: TrainingJob) -> None:
        largest = self.block_of(self.rounds - 1)
        for name, (task, _) in job.tasks.items():
            if largest > task.max_new_tokens:
                raise UserError(
                    f"cllm: block_size={largest} is longer than a reply to '{name}' may be "
                    f"({task.max_new_tokens} tokens); lower it, or raise {name}:max_new_tokens"
                )

    def _collection_key(self, job: TrainingJob) -> str:
        """Hash what decides the first collection."""
        guess = self.guess if self.states == "recorded" else None
        own = (self.questions, self.held_out, self.states, self.recorded_block(0), self.seed, guess)
        return collection_key(job, own)


@dataclass(frozen=True)
class _Training(RecipeRun[CllmRecipe]):
    """The recipe at work on one job.

    Attributes:
        recipe: Its settings.
        job: What to do.
        held_out: Questions to watch.
        questions: Those to learn from.
    """

    held_out: Sequence[TaskQuestion]
    questions: Sequence[TaskQuestion]

    def collecting(self, round_: int) -> Callable[[Path], None]:
        """Return the stage that collects for a round, counted from 0."""
        return partial(self._collect, round_)

    def fitting(self, round_: int) -> Callable[[Path], None]:
        """Return the stage that fits in a round, counted from 0."""
        return partial(self._fit, round_)

    @cached_property
    def _asked(self) -> TargetAnswers:
        # What the data set gives no answer to is watched by the target's own.
        unanswered = [each for each in self.held_out if not each.sample.reference]
        return TargetAnswers(self.job, self.work, self.questions, unanswered)

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
            family.model("target").load_state_dict(self.fitted(f"fit-{round_}"))
        return decoder

    def _fit(self, round_: int, folder: Path) -> None:
        recipe, states = self.recipe, self.recipe.states_of(round_, self.job)
        answers, watch = self._material(round_, folder)
        data = self.batches(answers)
        # A pass over answers that train one block each is one over a share of the blocks.
        share = mean_blocks(answers, states) if recipe.form == "single" else 1.0
        try:
            optimiser = self.optimiser(
                self._model(round_),
                folder,
                data.batches * recipe.epochs * share,
                floor=0.0,
                weight_decay=0.0,
            )
            target = self._anchor(optimiser.device)
            optimiser.fit(
                lambda number: make_batch(
                    data.batch(number),
                    states,
                    random.Random(f"{recipe.seed}/{number}"),
                    recipe.ahead_of(number // recipe.accumulate),
                ),
                lambda model, batch: cllm_loss(model, batch, states, target),
                watch,
                recipe.evaluate_every,
                collapsed,
            )
        except TrainingCollapsed as error:
            kept = on_main(lambda: self._leave_good(round_, folder))
            raise TrainingCollapsed(f"{error}{kept}") from None

    def _material(self, round_: int, folder: Path) -> tuple[list[Answer], Watch]:
        """Return what a round learns from, and what watches it."""
        held_out, records = self._asked.records(self.work / f"collect-{round_ + 1}")
        answers = self._answers(records, folder, begun=round_ > 0)
        return answers, self._watch(self.recipe.decoding(round_), held_out)

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

    def _watch(self, settings: Jacobi, records: Sequence[Record]) -> Watch:
        """Return what watches the held-out questions; the records answer some of them."""
        family, found = self.job.family, examples_of(records)
        asked = [
            each._replace(example=found.get((each.label, each.sample.id), each.example))
            for each in self.held_out
        ]
        return Watch(asked, family.tokenizer, family.stop_ids, settings, family.pad_id)

    def _model(self, round_: int = 0) -> PreTrainedModel:
        """Return the weights with which a round begins."""
        model = self.load(self.recipe.init)
        # The method reads it: a checkpoint decodes best as it was trained.
        decoding = self.recipe.decoding(round_)
        model.config.cllm = {name: getattr(decoding, name) for name in NOTED}
        if round_ > 0:
            model.load_state_dict(self.fitted(f"fit-{round_}"))
        return model

    def _anchor(self, device: torch.device) -> PreTrainedModel | None:
        """Return the frozen target on the device of this process, if there is an anchor."""
        if not self.recipe.anchor_weight:
            return None
        target: Any = self.load("target").eval().requires_grad_(False)
        return target.to(device)

    def _leave_good(self, round_: int, folder: Path) -> str:
        """Leave the last good weights of a collapsed fit as a checkpoint; say where it is."""
        from cllm_bench.training.trainer import GOOD, trained_state

        if not (folder / GOOD).exists():
            return ""
        target = folder / "last-good"
        if not target.exists():
            model = self._model(round_)
            model.load_state_dict(trained_state(folder, GOOD))
            leave_checkpoint(model, self.job.family.tokenizer, target, self.work, folder)
        return f"; as a checkpoint: --role {self.recipe.role}={target}"

    def export(self, folder: Path) -> None:
        """Leave the checkpoint in Hugging Face's layout, with its log and settings."""
        if not is_main():
            return
        rounds = self.recipe.rounds
        model = self._model(rounds - 1)
        model.load_state_dict(self.fitted(f"fit-{rounds}"))
        self.leave(model, f"fit-{rounds}")
