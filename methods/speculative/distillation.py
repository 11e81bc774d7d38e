"""Distils a draft from its target, and estimates how many of its tokens would be accepted.

Distilled on what the target itself generates, as in Zhou et al. 2023 (arXiv 2310.08461): there the
draft learns to be right where it will be asked. Shape letters here: B answers, T columns, N answer
tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cllm_bench.contracts import Divergence

from ..recipes.examples import Example, collate
from ..recipes.losses import divergence

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cllm_bench.training.trainer import LossSum

GROUP = 32  # held-out answers in a batch
GUESSES = 4  # drafted for a pass, where acceptance is watched


@dataclass(frozen=True)
class Distillation:
    """What a draft is trained for.

    Attributes:
        teacher: The target; frozen.
        kind: Of the divergence between their distributions.
        ce_weight: Weight of the cross-entropy of the target's own tokens.
    """

    teacher: PreTrainedModel
    kind: Divergence
    ce_weight: float

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
        """Return the loss, summed over the tokens of the answers.

        Args:
            model: The draft, as it is placed.
            batch: Of `answers.collate`.
        """
        from torch.nn.functional import cross_entropy

        from cllm_bench.training.trainer import LossSum

        teacher, student, tokens = self._run(model, batch)
        total = apart = divergence(teacher, student, self.kind).sum()
        parts = {
            "divergence": apart.detach(),
            "acceptance": (student.argmax(-1) == tokens).sum(),
        }
        if self.ce_weight:
            ce_loss = cross_entropy(student.float(), tokens, reduction="sum")
            parts["ce_loss"] = ce_loss.detach()
            total = apart + self.ce_weight * ce_loss
        return LossSum(total, len(tokens), parts)

    def _run(
        self, model: nn.Module, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:  # (N, V), (N, V), (N,)
        """Return what either model says where an answer's token is due, and that token."""
        import torch

        asked = batch["weights"] > 0
        first = int(asked.any(0).nonzero()[0])
        device = next(model.parameters()).device
        ids, asked = batch["ids"].to(device), asked[:, first:].to(device)

        def logits(one: nn.Module) -> Tensor:
            keep = ids.shape[1] - first + 1
            found = one(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
            return found[:, :-1][asked]  # type: ignore[no-any-return]

        with torch.no_grad():
            teacher = logits(self.teacher.to(device))
        student = logits(model)
        known = min(teacher.shape[-1], student.shape[-1])  # embeddings may be padded
        return teacher[:, :known], student[:, :known], ids[:, first:][asked]

    def watch(self, model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Return the divergence on held-out answers, and what greedy decoding would accept.

        Tokens before the first rejected guess are the target's own, so one pass over the target's
        answers tells exactly which guesses speculative decoding would have accepted.
        """
        apart, count = 0.0, 0
        right: list[list[bool]] = []
        for start in range(0, len(examples), GROUP):
            group = examples[start : start + GROUP]
            teacher, student, tokens = self._run(model, collate(group))
            apart += float(divergence(teacher, student, self.kind).sum())
            count += len(tokens)
            found = (student.argmax(-1) == tokens).tolist()
            for each in group:
                right.append(found[: len(each.answer)])
                del found[: len(each.answer)]
        return {"held_out_divergence": apart / count, **acceptance(right, GUESSES)}


def acceptance(right: Sequence[Sequence[bool]], k: int) -> dict[str, float]:
    """Return how speculative decoding with k guesses a pass would fare.

    Args:
        right: For each answer, whether the draft's first choice for each token is the target's.
        k: Guesses.
    """
    offered, taken = [0] * (k + 1), [0] * (k + 1)
    for answer in right:
        for known, accepted in _passes(answer, k):
            for guesses in range(k + 1):
                offered[guesses] += guesses <= known
                taken[guesses] += guesses <= accepted
    # The first token of an answer is the prefill's.
    tokens = sum(len(answer) - 1 for answer in right)
    found = {"held_out_tokens_per_pass": tokens / max(1, offered[0])}
    for place in range(1, k + 1):
        found[f"held_out_acceptance_{place}"] = taken[place] / max(1, offered[place])
    return found


def _passes(answer: Sequence[bool], k: int) -> Iterator[tuple[int, int]]:
    """Yield, for each pass, the guesses whose fate is known and those that are accepted."""
    place = 1
    while place < len(answer):
        guesses = answer[place : place + k]
        accepted = next((index for index, fine in enumerate(guesses) if not fine), len(guesses))
        yield len(guesses), accepted
        place += accepted + 1


def with_layers(model: PreTrainedModel, chosen: Sequence[int]) -> PreTrainedModel:
    """Return a model made of some of another's layers, its embeddings, norm and head.

    Args:
        model: Any decoder whose layers are one list.
        chosen: Numbers of the layers, in order.
    """
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    stem = f"{_layers_of(model)}."
    text.num_hidden_layers = len(chosen)
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[number] for number in chosen]
    draft: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
    )
    places = {str(number): str(place) for place, number in enumerate(chosen)}
    state = {}
    for name, weights in model.state_dict().items():
        number, dot, rest = name.removeprefix(stem).partition(".")
        if not name.startswith(stem):
            state[name] = weights
        elif number in places:
            state[f"{stem}{places[number]}{dot}{rest}"] = weights
    draft.load_state_dict(state)
    draft.generation_config = copy.deepcopy(model.generation_config)
    return draft.to(model.device).train(model.training)


def _layers_of(model: PreTrainedModel) -> str:
    """Return the name of the list that holds the layers."""
    from torch.nn import ModuleList

    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return str(name)
    raise ValueError(f"{type(model).__name__} has no list of {count} layers")


def spread(count: int, of: int) -> list[int]:
    """Return so many numbers below `of`, evenly spread, the first and the last among them."""
    return [round(place * (of - 1) / max(1, count - 1)) for place in range(count)]
