"""Is an output the baseline's? Exact, a numerical tie at the first difference, or a mismatch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.contracts import Sampling
    from cllm_bench.engine.session import Session

# A pass over several rows may add up the same products in another order than a pass over one. Each
# addition rounds by eps/2; over the few hundred of a row the error stays within some eps. That is a
# guess which knows nothing of the model; `rounding.py` measures.
TIE_ROUNDINGS = 4.0

Verdict = Literal["exact", "tie", "mismatch"]


class Comparison(NamedTuple):
    """How an output compares with the baseline's on the same checkpoint.

    Attributes:
        kind: `tie` means that of the two tokens at the first difference either may be the model's
            choice: rounding cannot tell them apart from the best.
        first_difference: Index of the first token that differs; none where all agree.
    """

    kind: Verdict
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
    tolerance: float | None = None,
) -> Comparison:
    """Compare an output with the baseline's, teacher-forced where they part.

    Args:
        tokens: The output.
        expected: The baseline's.
        prompt_ids: What both continue.
        sampling: How both were chosen.
        open_session: Opens a session on the checkpoint; called only where they differ.
        tolerance: What a token's logit may lack of the best one for rounding to explain its choice,
            measured for the checkpoint; None takes some roundings of the largest logit.
    """
    index = first_difference(tokens, expected)
    if index is None:
        return Comparison("exact")
    if index < min(len(tokens), len(expected)):
        forced = prompt_ids.tolist() + list(expected[:index])
        logits = open_session().prefill(prompt_ids.new_tensor(forced)).logits
        if _tied(logits, index, sampling, {tokens[index], expected[index]}, tolerance):
            return Comparison("tie", index)
    return Comparison("mismatch", index)


def _tied(
    logits: Tensor,  # (1, V)
    place: int,
    sampling: Sampling,
    tokens: set[int],
    measured: float | None,
) -> bool:
    """Tell whether the model may choose each token, if its logits are right up to rounding.

    Whatever is certain to be in the nucleus competes; what may be outside may also not.
    """
    import torch

    from cllm_bench.decoding.sampling import Chooser

    whole = replace(sampling, top_p=1.0)
    scores = Chooser(whole, logits.device).scores(logits, place)[0].double()
    temperature = sampling.temperature or 1.0
    scaled = logits[0].double() / temperature
    largest = float(scaled.nan_to_num(0.0, 0.0, 0.0).abs().max())  # -inf rules a token out
    tolerance = TIE_ROUNDINGS * torch.finfo(logits.dtype).eps * largest
    if measured is not None:
        tolerance = measured / temperature
        if sampling.temperature:  # scores are summed up in single precision
            tolerance += TIE_ROUNDINGS * torch.finfo(torch.float32).eps * largest
    possible, certain = _nucleus(scaled, sampling.top_p, tolerance)
    least = scores.masked_fill(~certain, -torch.inf).max() - tolerance
    return all(bool(possible[token] and scores[token] >= least) for token in tokens)


def _nucleus(
    scaled: Tensor,  # (V,)
    top_p: float,
    tolerance: float,
) -> tuple[Tensor, Tensor]:  # (V,), (V,) bool
    """Return the tokens that may be in the nucleus, and those that are in it however one rounds.

    A token is in it where the likelier ones have a probability below top_p. Rounding may swap
    tokens that are closer than the tolerance, and change the log odds of the likelier ones by it.
    """
    import torch

    if top_p >= 1:
        everything = torch.ones_like(scaled, dtype=torch.bool)
        return everything, everything
    own = scaled.softmax(-1)
    rising, order = scaled.sort()
    below = torch.cat([own.new_zeros(1), own[order].cumsum(-1)])  # of the k least likely
    least = 1 - below[torch.searchsorted(rising, scaled + tolerance, right=True)]
    most = 1 - below[torch.searchsorted(rising, scaled - tolerance)] - own
    border = math.log(top_p / (1 - top_p))
    possible = least.clamp(0, 1).logit() - tolerance < border
    certain = most.clamp(0, 1).logit() + tolerance < border
    return possible, certain
