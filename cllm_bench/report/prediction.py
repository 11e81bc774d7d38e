"""The speedup that forward passes alone predict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.rows import Row


def pass_seconds(pass_times: Sequence[PassTime], task: str) -> dict[str, float]:
    """Return the seconds of a pass alone, by shape, as measured on a task.

    They are the median of what was measured in all pauses, each weighted by its repeats.
    """
    found: dict[str, list[float]] = {}
    for each in pass_times:
        if each.task == task:
            found.setdefault(each.shape, []).extend([each.seconds] * each.repeats)
    return {shape: statistics.median(times) for shape, times in found.items()}


def predicted_paces(
    samples: Mapping[str, Sequence[Row]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return the seconds per decoded token that a sample's passes alone would take.

    Args:
        samples: Rows by sample; repeats have the same passes, and the first is taken.
        seconds: Of a pass, by shape.

    Returns:
        By sample; those are left out whose passes are unknown.
    """
    paces = {}
    for name, rows in samples.items():
        row = rows[0]
        known = row.pass_shapes and all(shape in seconds for shape in row.pass_shapes)
        if known and row.decoded_tokens:
            total = sum(count * seconds[shape] for shape, count in row.pass_shapes.items())
            paces[name] = total / row.decoded_tokens
    return paces
