"""Losses that several recipes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cllm_bench.contracts import Divergence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cllm_bench.training.trainer import LossSum


def divergence(
    teacher: Tensor,  # (..., V) logits
    student: Tensor,  # (..., V) logits
    kind: Divergence,
) -> Tensor:  # (...)
    """Return how far the student's distribution is from the teacher's, in nats, row by row."""
    import torch

    p, q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    if kind == "forward_kl":
        return _kl(p, q)
    if kind == "reverse_kl":
        return _kl(q, p)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, device=p.device))
    return (_kl(p, middle) + _kl(q, middle)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def answer_loss(model: nn.Module, batch: dict[str, Tensor], smoothing: float = 0.0) -> LossSum:
    """Return the weighted cross-entropy of the next token, summed, over the sum of weights.

    Padding lies on the right, where causal attention never looks, so no mask is needed.
    """
    from torch.nn.functional import cross_entropy

    from cllm_bench.training.trainer import LossSum

    device = next(model.parameters()).device
    ids, weights = batch["ids"].to(device), batch["weights"].to(device)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    losses = cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none", label_smoothing=smoothing
    )
    return LossSum((losses * weights.flatten()).sum(), float(batch["weights"][:, 1:].sum()), {})
