"""Summarises the perplexity of a text, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cllm_bench.report.statistics import Interval, bootstrap_interval
from cllm_bench.results.manifest import Manifest, MethodEntry
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.summary import Bounds, PerplexityFigures


class TextScore(NamedTuple):
    """What a summary says in place of graded replies, where the task has a text.

    Attributes:
        score: Perplexity by token.
        score_ci: Its interval.
        figures: How it came about.
        compared: Whether there is a baseline's to compare with; if so, the next two hold.
        difference: From the perplexity of the baseline's checkpoint.
        difference_ci: Its interval.
    """

    score: float | None
    score_ci: Bounds | None
    figures: PerplexityFigures
    compared: bool = False
    difference: float | None = None
    difference_ci: Bounds | None = None


def text_score(
    measured: Sequence[Perplexity], manifest: Manifest, task: str, cell: MethodEntry
) -> TextScore | None:
    """Return the perplexity of a method's checkpoint; None where it was not measured.

    Methods on the same checkpoint share its perplexity. The difference is that of the checkpoint
    from the baseline's, over the same stretches of text.
    """
    by_role = {each.checkpoint: each for each in measured if each.task == task}
    ours = by_role.get(cell.checkpoint)
    if ours is None:
        return None
    seed = manifest.seed
    found = TextScore(ours.token_perplexity, perplexity_interval([ours], seed), _figures(ours))
    baseline = manifest.cell(manifest.baseline)
    target = None if baseline is None else by_role.get(baseline.checkpoint)
    if target is None or cell.method == manifest.baseline:
        return found
    mine, theirs = ours.token_perplexity, target.token_perplexity
    return found._replace(
        compared=True,
        difference=None if mine is None or theirs is None else mine - theirs,
        difference_ci=None if ours is target else perplexity_interval([ours, target], seed),
    )


def _figures(found: Perplexity) -> PerplexityFigures:
    return PerplexityFigures(
        window=found.window,
        stride=found.stride,
        remainder=found.remainder,
        windows=found.windows,
        text_tokens=found.text_tokens,
        words=found.words,
        tokens=found.tokens,
        nll=found.nll,
        token=found.token_perplexity,
        word=found.word_perplexity,
        seconds=found.seconds,
    )


def perplexity_interval(measured: Sequence[Perplexity], seed: int) -> Interval | None:
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
