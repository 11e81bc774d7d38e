"""Programs made of replies, and where a completion ends."""

from __future__ import annotations

import pytest
from humaneval_folders import PROMPT

from cllm_bench.decoding.stop_strings import cut
from cllm_bench_tasks.humaneval.extraction import COMPLETION_STOPS, program_of
from cllm_bench_tasks.humaneval.task import HumanEval


def test_completion_keeps_its_own_text() -> None:
    assert program_of(PROMPT, "total", "    return sum(values)") == (
        f"{PROMPT}    return sum(values)\n"
    )


@pytest.mark.parametrize(
    "rest",
    ["\nclass A:", "\ndef g():", "\n# next", "\nif True:", "\nprint(1)", "\n@cache", "\n```"],
)
def test_stops(rest: str) -> None:
    assert cut(f"    return 1{rest}", COMPLETION_STOPS) == "    return 1"
    inner = "    if x:\n        print(1)  # so\n    return 1"
    assert cut(inner, HumanEval().stop) == inner
