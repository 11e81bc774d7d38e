"""The metric of Spider, without the harness."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.filterwarnings("default")  # of the libraries that evaluate imports
def test_metric(folder: Path) -> None:
    pytest.importorskip("evaluate")
    from cllm_bench_tasks.spider.metric import ExecutionAccuracy

    database = str(folder / "database" / "band" / "band.sqlite")
    metric = ExecutionAccuracy(keep_in_memory=True)
    reference = {"database": database, "sql": "SELECT DISTINCT age FROM singer"}
    predictions = ["SELECT age FROM singer", "```sql\nSELECT age FROM singer;\n```", "SELECT 1", ""]
    references = [reference] * len(predictions)
    found = metric.compute(predictions=predictions, references=references)
    assert found == {"execution_accuracy": 0.5}
    found = metric.compute(predictions=predictions, references=references, keep_distinct=True)
    assert found == {"execution_accuracy": 0.0}
