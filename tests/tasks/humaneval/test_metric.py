"""The metric of HumanEval, without the harness."""

from __future__ import annotations

import pytest
from humaneval_folders import PROBLEM


@pytest.mark.filterwarnings("default")  # of the libraries that evaluate imports
def test_metric(confined: None) -> None:
    pytest.importorskip("evaluate")
    from cllm_bench_tasks.humaneval.metric import FunctionalCorrectness

    metric = FunctionalCorrectness(keep_in_memory=True)
    reference = {key: PROBLEM[key] for key in ("prompt", "entry_point", "test")}
    right, wrong = "    return sum(values)\n", "    return 1\n"
    found = metric.compute(
        predictions=[[right, wrong, wrong, wrong], [right] * 4],
        references=[reference] * 2,
        k=(1, 2),
    )
    assert found == {"pass@1": pytest.approx(0.625), "pass@2": pytest.approx(0.75)}
