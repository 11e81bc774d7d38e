"""The ties that rounding alone explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cllm_bench.engine.passes import parse_shape
from cllm_bench.results.rows import Row


def expected_ties(samples: Mapping[str, Sequence[Row]], flips: Mapping[str, float]) -> float | None:
    """Return how many replies would part from the baseline's at a tie by rounding alone.

    Args:
        samples: Rows by sample; repeats are the same reply, and the first is taken.
        flips: Share of the positions at which a pass chooses otherwise than one over a single row,
            by its rows.

    Returns:
        The number, or None where the passes of a reply are unknown: a library's own are.
    """
    total = 0.0
    for rows in samples.values():
        row = next((row for row in rows if row.verdict is not None), None)
        if row is None or not row.decoded_tokens:
            continue
        rate = _rate(row, flips)
        if rate is None:
            return None
        total += 1 - (1 - rate) ** row.decoded_tokens
    return total


def _rate(row: Row, flips: Mapping[str, float]) -> float | None:
    """Return the mean share of the reply's passes; None where they are unknown.

    Passes over one row are the baseline's, but for the cache that passes over several wrote.
    """
    passes = {parse_shape(text): count for text, count in row.pass_shapes.items()}
    own = {shape: count for shape, count in passes.items() if shape.role == row.checkpoint}
    if own and all(shape.rows == 1 for shape in own):
        return 0.0
    shares = {shape: _nearest(shape.rows, shape.tree, flips) for shape in own}
    if not own or None in shares.values():
        return None
    return sum(count * (shares[shape] or 0.0) for shape, count in own.items()) / sum(own.values())


def _nearest(rows: int, tree: bool, flips: Mapping[str, float]) -> float | None:
    """Return the share that was measured for a pass of the most similar size, of its kind."""
    alike = {
        int(shape.removesuffix("t")): share
        for shape, share in flips.items()
        if shape.endswith("t") == tree
    }
    if not alike:
        return None
    return alike[min(alike, key=lambda size: abs(math.log(size / rows)))]
