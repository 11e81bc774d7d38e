"""The recipe `draft`: a small model that guesses what the target will say.

Sources: Leviathan et al. 2023 (arXiv 2211.17192) for what a draft is for; Zhou et al. 2023 (arXiv
2310.08461) for distilling it on the target's own generations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from cllm_bench.contracts import Divergence, Stage, TrainingJob
from cllm_bench.engine.runtime import Attention
from cllm_bench.errors import UserError
from cllm_bench.machine.processes import is_main

from ..recipes.base import at_least
from ..recipes.examples import collate
from ..target.from_scratch import new_model
from ..target.recipe import TargetRecipe
from ..trajectories.target_answers import DistillationRun, as_it_runs
from .distillation import Distillation, spread, with_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cllm_bench.engine.family import ModelFamily


@dataclass(frozen=True)
class DraftRecipe:
    """Distil a small model of the same tokenizer on the target's own generations.

    Attributes:
        init: `layers`: begin with some of the target's layers, its embeddings and its head;
            `scratch`: a small Llama of the shape below; `checkpoint`: the family's own draft.
        layers: Depth of the draft.
        pick: Which of the target's layers (`layers` only): the first ones, or some evenly spread.
        hidden: Width (`scratch` only).
        heads: Attention heads (`scratch` only).
        feed_forward: Width of the feed-forward layers (`scratch` only).
        questions: Training questions to ask the target; 0 is all.
        clean: Drop answers that repeat themselves.
        finished: Drop answers that were cut by the limit.
        divergence: Of the draft from the target: `forward_kl`, `reverse_kl` or `jsd`.
        ce_weight: Weight of the cross-entropy of the target's own tokens, beside the divergence.
        steps: Optimiser steps; 0 is one pass over the answers.
        tokens: Tokens to a batch, padding included.
        accumulate: Batches to a step, over all processes.
        learning_rate: At its peak.
        warm_up: Share of the steps over which the rate rises.
        precision: Of the arithmetic; weights stay in float32 while they are trained.
        attention: Kernel while training: on CPUs in bf16 `plain` is the fastest.
        held_out: Questions kept for watching.
        evaluate_every: Steps between looks at the held-out questions.
        seed: Of everything random.
    """

    role: ClassVar[str] = "draft"

    init: Literal["layers", "scratch", "checkpoint"] = "layers"
    layers: int = 2
    pick: Literal["first", "spread"] = "first"
    hidden: int = 128
    heads: int = 4
    feed_forward: int = 320
    questions: int = 0
    clean: bool = True
    finished: bool = False
    divergence: Divergence = "forward_kl"
    ce_weight: float = 0.0
    steps: int = 0
    tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = 3e-4
    warm_up: float = 0.03
    precision: Literal["no", "bf16"] = "no"
    attention: Attention = "sdpa"
    held_out: int = 64
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "layers", "hidden", "heads", "feed_forward", "tokens", "accumulate")
        at_least(self, 1, "held_out", "evaluate_every")
        at_least(self, 0, "questions", "ce_weight", "steps", "seed")
        if self.learning_rate <= 0 or not 0 <= self.warm_up < 1:
            raise UserError("draft: learning_rate must be above 0, and warm_up from 0 to below 1")
        if self.init == "scratch" and self.hidden % (2 * self.heads):
            raise UserError(
                f"draft: hidden={self.hidden} does not divide into heads={self.heads} of an even "
                "width"
            )

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The target, and the draft that is trained further."""
        return ("target", self.role) if self.init == "checkpoint" else ("target",)

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return collect, fit, export."""
        self._check_layers(job.family)
        for role in self.builds_on:
            job.family.refuse_tokenizer(role)
        training = _Training(self, job)
        return (
            training.stage(),
            Stage("fit", training.fit),
            Stage("export", training.export),
        )

    def _check_layers(self, family: ModelFamily) -> None:
        from cllm_bench.engine.loading import load_config

        config = load_config(family.checkpoint("target")).get_text_config()
        if self.init == "layers" and self.layers > config.num_hidden_layers:
            raise UserError(
                f"draft: layers={self.layers}, and the target has {config.num_hidden_layers}; "
                "lower it"
            )


@dataclass(frozen=True)
class _Training(DistillationRun[DraftRecipe]):
    """The recipe at work on one job."""

    def fit(self, folder: Path) -> None:
        """Fit the draft; leave its final checkpoint."""
        recipe = self.recipe
        held_out, examples = self.examples(folder)
        data = self.batches(examples)
        aim = Distillation(self._teacher(), recipe.divergence, recipe.ce_weight)
        self.optimiser(self._draft(), folder, data.batches).fit(
            lambda number: collate(data.batch(number)),
            aim.loss,
            lambda model: aim.watch(model, held_out),
            recipe.evaluate_every,
        )

    def export(self, folder: Path) -> None:
        """Leave the checkpoint in Hugging Face's layout, with its log and settings."""
        if not is_main():
            return
        model = self._draft()
        model.load_state_dict(self.fitted("fit"))
        self.leave(model, "fit")

    def _teacher(self) -> PreTrainedModel:
        """Return the target in the precision of a run: it is not trained."""
        return self.load("target", as_it_runs(self.family)).eval().requires_grad_(False)

    def _draft(self) -> PreTrainedModel:
        """Return the weights with which the training begins."""
        from transformers import set_seed

        recipe = self.recipe
        if recipe.init == "checkpoint":
            return self.load(recipe.role)
        if recipe.init == "scratch":
            set_seed(recipe.seed)
            return self._new().to(self.family.runtime.device)
        target = self.load("target")
        depth = target.config.get_text_config().num_hidden_layers
        first = list(range(recipe.layers))
        return with_layers(
            target, first if recipe.pick == "first" else spread(recipe.layers, depth)
        )

    def _new(self) -> PreTrainedModel:
        """Return a small Llama as long as the target, with as many embeddings."""
        from cllm_bench.engine.loading import load_config

        recipe, family = self.recipe, self.family
        target = load_config(family.checkpoint("target")).get_text_config()
        shape = TargetRecipe(
            hidden=recipe.hidden,
            layers=recipe.layers,
            heads=recipe.heads,
            feed_forward=recipe.feed_forward,
            positions=target.max_position_embeddings,
        )
        model = new_model(shape, family.tokenizer)
        model.resize_token_embeddings(target.vocab_size, mean_resizing=False)
        return model
