"""Stored pass times: damaged lines are refused."""

import pytest

from cllm_bench.results.pass_times import parse_pass_time


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"task": "a", "shape": "16", "context": 1, "seconds": 1.0, "repeats": 1, "attempt": 0},
        {"task": "a", "shape": "1 b", "context": 1, "seconds": 0.0, "repeats": 1, "attempt": 0},
    ],
)
def test_damaged_pass_times_are_refused(value):
    with pytest.raises(ValueError, match="pass"):
        parse_pass_time(value)
