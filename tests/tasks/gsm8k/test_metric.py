"""The metric of GSM8K, without the harness."""

from __future__ import annotations

import pytest


@pytest.mark.filterwarnings("default")  # of the libraries that evaluate imports
def test_metric() -> None:
    pytest.importorskip("evaluate")
    from cllm_bench_tasks.gsm8k.metric import WorkedAnswerAccuracy

    metric = WorkedAnswerAccuracy(keep_in_memory=True)
    predictions = ["#### 18", "it is 1,034", "7", "#### 3 of 4"]
    references = ["#### 18", "#### 1034", "#### 8", "#### 3"]
    found = metric.compute(predictions=predictions, references=references)
    assert found == {"accuracy_strict": 0.5, "accuracy_flexible": 0.5}
    with pytest.raises(ValueError, match="no '#### NUMBER' in reference 0"):
        metric.compute(predictions=["1"], references=["1"])
