"""Is an output the baseline's? Exact, a numerical tie at the first difference, or a mismatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.contracts import Sampling
    from cllm_bench.session import Session

# A pass over several rows may add up the same products in another order than a pass over one. Each
# addition rounds by eps/2; over the few hundred of a row the error stays within some eps.
TIE_ROUNDINGS = 4.0


class Verdict(NamedTuple):
    """How an output compares with the baseline's on the same checkpoint.

    Attributes:
        kind: `tie` means that the two tokens at the first difference are the model's two best, and
            closer together than rounding can tell apart.
        first_difference: Index of the first token that differs; none where all agree.
    """

    kind: Literal["exact", "tie", "mismatch"]
    first_difference: int | None = None


def first_difference(tokens: Sequence[int], expected: Sequence[int]) -> int | None:
    """Return the index at which two outputs part, or none where they are equal."""
    for index, (token, wanted) in enumerate(zip(tokens, expected, strict=False)):
        if token != wanted:
            return index
    return None if len(tokens) == len(expected) else min(len(tokens), len(expected))


def verdict(
    tokens: Sequence[int],
    expected: Sequence[int],
    prompt_ids: Tensor,  # (P,)
    sampling: Sampling,
    open_session: Callable[[], Session],
) -> Verdict:
    """Compare an output with the baseline's, teacher-forced where they part.

    Args:
        tokens: The output.
        expected: The baseline's.
        prompt_ids: What both continue.
        sampling: How both were chosen.
        open_session: Opens a session on the checkpoint; called only where they differ.
    """
    index = first_difference(tokens, expected)
    if index is None:
        return Verdict("exact")
    if index < min(len(tokens), len(expected)):
        forced = prompt_ids.tolist() + list(expected[:index])
        logits = open_session().prefill(prompt_ids.new_tensor(forced)).logits
        if _tied(logits, index, sampling, {tokens[index], expected[index]}):
            return Verdict("tie", index)
    return Verdict("mismatch", index)


def _tied(
    logits: Tensor,  # (1, V)
    place: int,
    sampling: Sampling,
    tokens: set[int],
) -> bool:
    import torch

    from cllm_bench.sampling import Chooser

    scores = Chooser(sampling, logits.device).scores(logits, place)[0]
    best = scores.float().topk(2)
    if tokens != set(best.indices.tolist()):
        return False
    gap = float(best.values[0] - best.values[1])
    scale = float(logits.float().abs().max()) / (sampling.temperature or 1.0)
    return gap <= TIE_ROUNDINGS * torch.finfo(logits.dtype).eps * scale
