"""The recipe `cllm`: trajectories of the target, and a checkpoint that learns to skip along them.

Source: Kou et al. 2024 (arXiv 2403.00835), Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from cllm_bench.contracts import Divergence, Objective, Stage, TrainingJob
from cllm_bench.core.registry import Door
from cllm_bench.core.settings import as_dict, build, parse_selection
from cllm_bench.engine.runtime import Attention
from cllm_bench.errors import UserError

from ..trajectories.target_answers import RECORDED_BLOCK, collection_key, split_questions
from .states import States
from .training import CllmTraining


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
        shift: Let blocks begin anywhere in the answer (online only).
        window: Blocks that share a noisy context (progressive only).
        ar_weight: Weight of the AR loss, w.
        ar_labels: What the AR loss is taken on: the collected answers or the data set's.
        steps: Optimiser steps in a round; 0 is one pass over the collected answers.
        tokens: Columns in a batch, copies and padding included.
        accumulate: Batches to a step, over all processes.
        learning_rate: At its peak.
        warm_up: Share of the steps over which the rate rises.
        precision: Of the arithmetic; weights stay in float32 while they are trained.
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
    shift: bool = True
    window: int = 4
    ar_weight: float = 10.0
    ar_labels: Literal["generation", "reference"] = "generation"
    steps: int = 0
    tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = 2e-5
    warm_up: float = 0.03
    precision: Literal["no", "bf16"] = "no"
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    trackers: str = ""
    held_out: int = 32
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        self._at_least(
            1, "rounds", "growth", "copies", "iterations", "window", "tokens", "accumulate"
        )
        self._at_least(1, "held_out", "evaluate_every")
        self._at_least(0, "questions", "steps", "ar_weight", "lora_rank", "seed")
        self._at_least(2, "block_size")
        if not 0 <= self.augment <= 1:
            raise UserError(f"cllm: augment is a share between 0 and 1, not {self.augment}")
        if self.learning_rate <= 0 or not 0 <= self.warm_up < 1:
            raise UserError("cllm: learning_rate must be above 0, and warm_up from 0 to below 1")
        if self.copies % self.iterations:
            raise UserError(
                f"cllm: copies={self.copies} is no multiple of iterations={self.iterations}"
            )

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise UserError(f"cllm: {name} must be at least {least}, not {value}")

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
            objective=self.objective_of(job.objectives),
            form=self.form,
            shift=self.shift,
            window=self.window,
            ar_weight=self.ar_weight,
            # Checkpointed layers compute their keys and values anew and so keep none.
            cached=self.form == "packed" and not self.gradient_checkpointing,
        )

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
        references = self.ar_labels == "reference"
        training = CllmTraining(self, job, *split_questions(self, job, references=references))
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
