"""The loss of Medusa heads, alone or with their model, and their accuracy.

The label of head k at position t is token t + 2 + k of the text: the model itself gives token
t + 1. Drawn for a prompt p p, an answer a b c d and two heads:

        position t     0   1   2   3   4   5
        token          p   p   a   b   c   d
        the model          a   b   c   d         <- rows: the positions that predict an answer
        head 0             b   c   d   -
        head 1             c   d   -   -

Shape letters here: B answers, T columns, K heads, N rows, H hidden size, V vocabulary.

Source: Cai et al. 2024 (arXiv 2401.10774), section 2.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..recipes.examples import Example, collate
from .tree import RANKS, Growth, path_text

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cllm_bench.training.trainer import LossSum

    # The module as it is placed, ids (B, T), rows (B, T) -> what the model says at the rows (N, V),
    # where it is trained too, and what every head says there.
    Outputs = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor | None, Sequence[Tensor]]]

NONE = -100  # the label where the token lies behind the answer's end
GROUP = 32  # held-out answers in a batch
NOTED = 64  # nodes whose worth is noted, at least


class Labels(NamedTuple):
    """Which positions predict an answer's token, and what is due behind them."""

    rows: Tensor  # (B, T) bool, true N times
    model: Tensor  # (N,)
    heads: Tensor  # (K, N), or NONE


def labels_of(
    ids: Tensor,  # (B, T)
    weights: Tensor,  # (B, T), above 0 for an answer's tokens
    heads: int,
) -> Labels:
    """Return what is to be learnt from a batch of `answers.collate`."""
    import torch
    from torch.nn.functional import pad

    columns = ids.shape[1]
    due = pad(ids.masked_fill(weights <= 0, NONE), (0, heads + 1), value=NONE)
    shifted = [due[:, ahead : ahead + columns] for ahead in range(1, heads + 2)]
    rows = shifted[0] != NONE
    model, *others = (each[rows] for each in shifted)
    return Labels(rows, model, torch.stack(others))


def rank_of(
    logits: Tensor,  # (N, V)
    labels: Tensor,  # (N,)
) -> Tensor:  # (N,)
    """Return how many tokens are deemed likelier than the label; V where there is none."""
    own = logits.gather(1, labels.clamp(min=0)[:, None])
    return (logits > own).sum(1).masked_fill(labels == NONE, logits.shape[1])


@dataclass(frozen=True)
class Learner:
    """What is trained, and what for.

    Attributes:
        module: Holds the weights to train.
        outputs: How it is run.
        heads: How many heads there are, K.
        decay: Weight of head k: this to the power of k.
        share: Weight of all heads together, where the model, at weight 1, is trained too.
    """

    module: nn.Module
    outputs: Outputs
    heads: int
    decay: float
    share: float = 1.0

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
        """Return the weighted cross-entropies, summed over the tokens of the answers.

        Args:
            module: As it is placed.
            batch: Of `answers.collate`.
        """
        import torch
        from torch.nn.functional import cross_entropy

        from cllm_bench.training.trainer import LossSum

        labels, own, found = self._run(module, batch)

        def summed(logits: Tensor, due: Tensor) -> Tensor:
            return cross_entropy(logits.float(), due, ignore_index=NONE, reduction="sum")

        losses = [summed(logits, due) for logits, due in zip(found, labels.heads, strict=True)]
        parts = {f"head_{head}_loss": loss.detach() for head, loss in enumerate(losses)}
        terms = [self.share * self.decay**head * loss for head, loss in enumerate(losses)]
        if own is not None:
            terms.append(summed(own, labels.model))
            parts["ar_loss"] = terms[-1].detach()
        return LossSum(torch.stack(terms).sum(), len(labels.model), parts)

    def _run(
        self, module: nn.Module, batch: Mapping[str, Tensor]
    ) -> tuple[Labels, Tensor | None, Sequence[Tensor]]:
        device = next(module.parameters()).device
        ids = batch["ids"].to(device)
        labels = labels_of(ids, batch["weights"].to(device), self.heads)
        own, found = self.outputs(module, ids, labels.rows)
        return labels, own, found

    def watch(self, module: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Return losses on held-out answers, and tokens per pass of the first choices alone."""
        sums: dict[str, float] = {}
        count = 0.0
        for batch in _batches(examples):
            loss = self.loss(module, batch)
            count += loss.count
            for name, value in loss.parts.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        found = {f"held_out_{name}": value / count for name, value in sums.items()}
        right = (self.ranks(module, examples) == 0).cumprod(1).sum(1)
        found["held_out_tokens_per_pass"] = 1 + float(right.float().mean())
        return found

    def ranks(self, module: nn.Module, examples: Sequence[Example]) -> Tensor:  # (N, K)
        """Return where each head has the right token among its choices: 0 is its first.

        Rows are the positions at which a pass may open a tree: those that predict a token of an
        answer, but for its last. A token that is due behind the end has the rank V.
        """
        import torch

        found = []
        for batch in _batches(examples):
            with torch.no_grad():
                labels, _, said = self._run(module, batch)
            ranks = [rank_of(logits, due) for logits, due in zip(said, labels.heads, strict=True)]
            found.append(torch.stack(ranks, dim=1)[labels.heads[0] != NONE].cpu())
        return torch.cat(found)


def measures(
    ranks: Tensor,  # (N, K)
    nodes: int,
) -> dict[str, Any]:
    """Return what is noted beside heads: the method reads `tree` and `worths`.

    Args:
        ranks: Of the right tokens, on held-out answers.
        nodes: Guesses in the tree.
    """
    growth = Growth.from_ranks(ranks.tolist(), max(nodes, NOTED))
    pairs = zip(map(path_text, growth.paths), growth.worths, strict=True)
    worths = {path: round(worth, 4) for path, worth in pairs}
    accuracies = [
        [round(float((head == rank).double().mean()), 4) for rank in range(RANKS)]
        for head in ranks.T
    ]
    return {"tree": growth.tree(nodes).text, "worths": worths, "accuracies": accuracies}


def _batches(examples: Sequence[Example]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(examples), GROUP):
        yield collate(examples[start : start + GROUP])


def heads_alone(
    model: PreTrainedModel, heads: nn.Module, *, own: bool
) -> tuple[nn.Module, Outputs]:
    """Let heads learn from a model that stays as it is (Medusa-1).

    The model is no part of what is trained, so no checkpoint of the training holds it.

    Args:
        model: Frozen here.
        heads: As `new_heads` made them.
        own: Whether they have projections of their own.
    """
    import torch

    model = model.eval().requires_grad_(False)
    # The model may be in a half precision; what is trained never is.
    project = copy.deepcopy(model.get_output_embeddings()).float()

    def outputs(module: nn.Module, ids: Tensor, rows: Tensor) -> tuple[None, Sequence[Tensor]]:
        with torch.no_grad():
            body = model.to(ids.device).base_model
            states = body(input_ids=ids, use_cache=False).last_hidden_state[rows]
        said = module(states.float())
        return None, said if own else [project.to(ids.device)(each) for each in said]

    return heads, outputs


def model_with_heads(
    model: PreTrainedModel, heads: nn.Module, *, own: bool
) -> tuple[nn.Module, Outputs]:
    """Let a model and its heads learn together (Medusa-2); as `heads_alone`."""
    from torch import nn

    class ModelWithHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.heads = model, heads
            self._no_split_modules = model._no_split_modules  # where it is sharded

        def forward(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
            output = self.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            said = self.heads(output.hidden_states[-1][rows])
            project = self.model.get_output_embeddings()
            return output.logits[rows], said if own else [project(each) for each in said]

    return ModelWithHeads(), lambda module, ids, rows: module(ids, rows)
