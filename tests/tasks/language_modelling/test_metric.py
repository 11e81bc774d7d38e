"""The metric of language modelling, without the harness."""

from __future__ import annotations

import pytest


def test_the_metric_without_the_harness():
    import math

    from cllm_bench_tasks.language_modelling.metric import TextPerplexity

    found = TextPerplexity().compute(
        predictions=[10 * math.log(4), 30 * math.log(4)],
        references=[{"tokens": 10, "words": 5}, {"tokens": 30, "words": 15}],
    )
    assert found["token_perplexity"] == pytest.approx(4)
    assert found["word_perplexity"] == pytest.approx(16)
