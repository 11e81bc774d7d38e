"""The recipe `target`: a checkpoint that answers tasks, from scratch or from another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from cllm_bench.contracts import Sample, Stage, TrainingJob
from cllm_bench.engine.runtime import Attention
from cllm_bench.errors import UserError
from cllm_bench.machine.processes import is_main

from ..recipes.base import RecipeRun, at_least
from ..recipes.examples import Example, collate, encode, refuse_unanswered
from ..recipes.losses import answer_loss
from .from_scratch import new_model, train_tokenizer

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HELD_OUT = 256


@dataclass(frozen=True)
class TargetRecipe:
    """Teach a causal model to answer the training questions of the tasks.

    Attributes:
        init: `checkpoint` fine-tunes the family's target; `scratch` trains a new tokenizer and a
            small Llama of the shape below.
        steps: Optimiser steps.
        tokens: Tokens to a batch, padding included.
        accumulate: Batches to a step, over all processes.
        learning_rate: At its peak.
        prompt_weight: Share of the loss that a prompt's token has, against 1 for an answer's.
        precision: Of the arithmetic: `no` is float32.
        compile: Let TorchInductor fuse norms and feed-forward parts; it takes a C++ compiler.
        attention: Kernel while training: on CPUs in bf16 `plain` is the fastest.
        seed: Of weights and order.
        vocabulary: Of a new tokenizer.
        hidden: Width of a new model.
        layers: Its depth.
        heads: Its attention heads.
        feed_forward: Width of its feed-forward layers.
        positions: The longest sequence that it takes.
    """

    role: ClassVar[str] = "target"

    init: Literal["checkpoint", "scratch"] = "checkpoint"
    steps: int = 1000
    tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = 2e-5
    prompt_weight: float = 0.0
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    attention: Attention = "sdpa"
    seed: int = 0
    vocabulary: int = 768
    hidden: int = 128
    layers: int = 8
    heads: int = 4
    feed_forward: int = 320
    positions: int = 8192

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "tokens", "accumulate")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The target, unless it starts from scratch."""
        return ("target",) if self.init == "checkpoint" else ()

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return tokenizer, fit, export."""
        refuse_unanswered(self.role, job.tasks, references=True)
        questions = [sample for _, found in job.tasks.values() for sample in found.samples]
        if len(questions) <= HELD_OUT:
            raise UserError(
                f"{len(questions)} training questions are too few: {HELD_OUT} are held out"
            )
        random.Random(self.seed).shuffle(questions)
        training = _Training(self, job, tuple(questions))
        return (
            Stage("tokenizer", training.tokenizer),
            Stage("fit", training.fit),
            Stage("export", training.export),
        )


@dataclass(frozen=True)
class _Training(RecipeRun[TargetRecipe]):
    """The recipe at work on one job."""

    questions: tuple[Sample, ...]  # of all tasks, in a seeded order

    def tokenizer(self, folder: Path) -> None:
        """Leave the tokenizer: a new one, or the checkpoint's."""
        if not is_main():
            return
        if self.recipe.init == "checkpoint":
            self.job.family.tokenizer.save_pretrained(folder)
            return
        texts = [sample.prompt + sample.reference for sample in self.questions]
        train_tokenizer(texts, self.recipe.vocabulary).save_pretrained(folder)

    def fit(self, folder: Path) -> None:
        """Fit the model; leave its final checkpoint."""
        tokenizer = self._load_tokenizer()
        examples = encode(self.questions, tokenizer)
        held_out, training = examples[:HELD_OUT], examples[HELD_OUT:]
        data = self.batches(training)
        self.optimiser(self._model(tokenizer), folder, data.batches).fit(
            lambda number: collate(data.batch(number), self.recipe.prompt_weight),
            answer_loss,
            lambda model: held_out_figures(model, held_out),
        )

    def export(self, folder: Path) -> None:
        """Leave the checkpoint in Hugging Face's layout, with its log and settings."""
        if not is_main():
            return
        tokenizer = self._load_tokenizer()
        model = self._model(tokenizer)
        model.load_state_dict(self.fitted("fit"))
        self.leave(model, "fit", tokenizer)

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        from cllm_bench.engine.checkpoint import Checkpoint
        from cllm_bench.engine.loading import load_tokenizer

        return load_tokenizer(Checkpoint(str(self.work / "tokenizer")))

    def _model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        from transformers import set_seed

        set_seed(self.recipe.seed)
        if self.recipe.init == "checkpoint":
            return self.load(self.recipe.role)
        return new_model(self.recipe, tokenizer).to(self.family.runtime.device)


def held_out_figures(model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
    """Return loss, and the share of answers whose every token is the model's first choice."""
    import torch

    device = next(model.parameters()).device
    whole, total, count = 0, 0.0, 0.0
    for start in range(0, len(examples), 32):
        group = examples[start : start + 32]
        batch = collate(group)
        loss = answer_loss(model, batch)
        total += float(loss.total)
        count += loss.count
        ids, asked = batch["ids"].to(device), batch["weights"].to(device)[:, 1:] > 0
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        right = (logits.argmax(-1) == ids[:, 1:]) | ~asked
        whole += int(torch.all(right, dim=1).sum())
    return {"held_out_loss": total / count, "held_out_exact": whole / len(examples)}
