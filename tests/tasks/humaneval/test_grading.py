"""Grades of replies in the sandbox, and pass@k."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from humaneval_folders import PROMPT, question

from cllm_bench.contracts import Source
from cllm_bench.core.settings import label
from cllm_bench.errors import UserError
from cllm_bench.sandbox.isolation import Strength
from cllm_bench_tasks.humaneval.grading import pass_at_k
from cllm_bench_tasks.humaneval.task import HumanEval

WHOLE = "def total(values):\n    return sum(values)"


@pytest.mark.parametrize(
    "reply",
    [
        "    return sum(values)\n",
        "    return sum(values)",
        "   return sum(values)",  # a tokenizer dropped the first space
        "return sum(values)",
        "\n \n    count = 0\n    for value in values:\n        count += value\n    return count",
        "    return sum(values)\n```\nThis adds them up.",
        "```python\n    return sum(values)\n```",
        "```\nreturn sum(values)\n```",
        WHOLE,
        f"Sure!\n\n{WHOLE}\n",
        f"Sure, here it is:\n\n```python\n{WHOLE}\n```\n\nIt uses `sum`.\n```\ntotal([])\n```",
        f"```python\n{PROMPT}    return sum(values)\n```",
        f"```py\n{WHOLE}",  # cut off by the limit, or by a stop string
        f"First the idea:\n```\nsum\n```\nThen:\n```python\nimport math\n\n{WHOLE}\n```",
        "1. Like this:\n   ```python\n   def total(values):\n       return sum(values)\n   ```",
        "import math\n\n\ndef helper(x):\n    return math.floor(x)\n\n\n"
        "def total(values: List[int]) -> int:\n    return sum(map(helper, values))\n",
        "    def total(values):\n        return sum(values)\n    return total(values)\n",
        "    return sum(values)\n\n\ndef other():\n    pass\n",
    ],
)
def test_replies_that_are_right(confined: None, folder: Path, reply: str) -> None:
    assert HumanEval().score(question(folder), [reply]) == 1.0


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "    pass\n",
        "    return max(values)\n",
        "    return sum(values",
        "I cannot do that.",
        "```python\n```",
        "```",
        "def other(values):\n    return sum(values)",
        "    print('passed')\n",
        "    import os\n    os._exit(0)\n",
        "    raise SystemExit(0)\n",
        "\0\ud800",
        "x" * 1_000_000,
    ],
)
def test_replies_that_are_wrong(confined: None, folder: Path, reply: str) -> None:
    assert HumanEval().score(question(folder), [reply]) == 0.0


def test_timeout_reaches_the_program(confined: None, folder: Path) -> None:
    task = HumanEval(timeout=1)
    started = time.monotonic()
    assert task.score(question(folder, task), ["    while True: pass\n"]) == 0.0
    assert time.monotonic() - started < 30


def test_less_than_full_isolation_is_refused(folder: Path, monkeypatch: Any) -> None:
    weak = Strength((), {"network": "programs can use the network"}, {})
    monkeypatch.setattr("cllm_bench.sandbox.sandbox.strength", lambda: weak)
    with pytest.raises(UserError, match="--allow-unsafe-code"):
        HumanEval().score(question(folder), ["    return 'not asked before'\n"])


def test_built_in_references_pass_in_the_sandbox(confined: None) -> None:
    task = HumanEval()
    samples = task.samples(Source()).samples[:40]
    assert [task.score(sample, [sample.reference]) for sample in samples] == [1.0] * 40
    assert sum(task.score(sample, ["    pass"]) for sample in samples) == 0


def test_all_canonical_solutions_pass(confined: None) -> None:
    task = HumanEval()
    samples = task.samples(Source("hub")).samples
    failed = [each.id for each in samples if task.score(each, [each.reference]) != 1.0]
    assert (len(samples), failed) == (164, [])


def test_same_program_is_run_once(confined: None, folder: Path, monkeypatch: Any) -> None:
    task, sample = HumanEval(timeout=2.5), question(folder)
    reply = "    return 0 + sum(values)\n"
    assert task.score(sample, [reply]) == 1.0
    monkeypatch.setattr("cllm_bench.sandbox.sandbox.strength", lambda: pytest.fail("run again"))
    assert task.score(sample, [reply]) == 1.0
    assert task.score(replace(sample, id="other"), [reply]) == 1.0


@pytest.mark.parametrize(
    ("samples", "correct", "k", "chance"),
    [
        (1, 1, 1, 1.0),
        (1, 0, 1, 0.0),
        (10, 3, 1, 0.3),
        (4, 2, 2, 1 - 1 / 6),
        (5, 1, 5, 1.0),
        (5, 0, 5, 0.0),
        (200, 10, 100, 1 - 0.000811),  # (100 choose 10) ways of 200 choose 10, about 2 ** -10
    ],
)
def test_pass_at_k(samples: int, correct: int, k: int, chance: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(chance, abs=1e-4)


def test_settings_of_pass_at_k(folder: Path) -> None:
    task = HumanEval(draws=5, k=3)
    assert (task.metric, task.draws, task.best_of) == ("pass@3", 5, 3)
    assert task.samples(Source("folder", folder)) == HumanEval().samples(Source("folder", folder))
    assert (label("humaneval", HumanEval()), HumanEval().best_of) == ("humaneval", 1)
    with pytest.raises(UserError, match="k=3 needs as many draws; give draws=3"):
        HumanEval(draws=2, k=3)
    with pytest.raises(UserError, match="draws is 0; give more than 0"):
        HumanEval(draws=0)


@pytest.mark.parametrize("counts", [(2, 3, 1), (2, -1, 1), (2, 1, 3), (2, 1, 0)])
def test_pass_at_k_of_nonsense(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(*counts)
