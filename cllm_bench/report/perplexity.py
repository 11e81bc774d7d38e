"""Summarises the perplexity of a text, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cllm_bench.report.statistics import Interval, bootstrap_interval
from cllm_bench.results.perplexity import Perplexity

_TOLD = ("window", "stride", "remainder", "windows", "text_tokens", "words", "tokens", "nll")


def figures(
    measured: Sequence[Perplexity], manifest: Mapping[str, Any], task: str, cell: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a summary says in place of graded replies, where the task has a text.

    Methods on the same checkpoint share its perplexity. The difference is that of the checkpoint
    from the baseline's, over the same stretches of text.
    """
    by_role = {each.checkpoint: each for each in measured if each.task == task}
    ours = by_role.get(cell["checkpoint"])
    if ours is None:
        return {"perplexity": None}
    seed = manifest["seed"]
    found = {
        "score": ours.token_perplexity,
        "score_ci": _pair(_interval([ours], seed)),
        "perplexity": {name: getattr(ours, name) for name in _TOLD}
        | {"token": ours.token_perplexity, "word": ours.word_perplexity, "seconds": ours.seconds},
    }
    roles = {each["method"]: each["checkpoint"] for each in manifest["cells"]}
    target = by_role.get(roles[manifest["baseline"]])
    if target is None or cell["method"] == manifest["baseline"]:
        return found
    mine, theirs = ours.token_perplexity, target.token_perplexity
    same = ours is target
    return found | {
        "score_difference": None if mine is None or theirs is None else mine - theirs,
        "score_difference_ci": None if same else _pair(_interval([ours, target], seed)),
    }


def _interval(measured: Sequence[Perplexity], seed: int) -> Interval | None:
    """Return the bootstrap interval of a perplexity, or of the first minus the second.

    The draws are of stretches of text, the same for both.
    """
    first = measured[0]
    shared = all(
        [p.tokens for p in each.parts] == [p.tokens for p in first.parts] for each in measured
    )
    if not shared or any(each.token_perplexity is None for each in measured):
        return None
    counts = np.array([part.tokens for part in first.parts], dtype=np.float64)
    sums = np.array([[part.nll for part in each.parts] for each in measured])

    def statistic(_: Any, weights: Any) -> Any:
        means = np.exp((weights @ sums.T) / (weights @ counts)[:, None])  # (R, 1 or 2)
        return means[:, 0] - means[:, 1] if len(measured) > 1 else means[:, 0]

    return bootstrap_interval([0.0] * len(counts), statistic, seed=seed)


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
