"""Stored perplexities with known figures."""

from __future__ import annotations

from cllm_bench.results.perplexity import Perplexity, Stretch


def measured(checkpoint="target", nlls=(200.0,) * 6, **changes):
    values = {
        "key": checkpoint,
        "task": "spider",
        "checkpoint": checkpoint,
        "attempt": 0,
        "window": 100,
        "stride": 100,
        "remainder": "drop",
        "windows": len(nlls),
        "text_tokens": 620,
        "words": 310,
        "tokens": 99 * len(nlls),
        "nll": sum(nlls),
        "parts": tuple(Stretch(99, nll) for nll in nlls),
        "seconds": 1.0,
    }
    return Perplexity(**(values | changes))
