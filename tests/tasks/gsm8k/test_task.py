"""GSM8K: prompts, sources, grades and fingerprints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gsm8k_folders import ROWS, write

from cllm_bench.contracts import Sample, Source, Task
from cllm_bench.errors import UserError
from cllm_bench_tasks.gsm8k.task import Gsm8k


def test_it_is_a_task() -> None:
    assert isinstance(Gsm8k(), Task)
    assert (Gsm8k.metric, Gsm8k.best_score, Gsm8k.folders) == ("accuracy", 1.0, ("gsm8k",))
    assert hash(Gsm8k()) == hash(Gsm8k())


def test_folder(folder: Path) -> None:
    found = Gsm8k().samples(Source("folder", folder))
    assert [sample.id for sample in found.samples] == ["test-0000", "test-0001", "test-0002"]
    assert (found.label, found.template, found.notes) == ("GSM8K test", "paper-v1", ())
    assert found.samples[0].data["question"] == "How much is 2+3?"
    train = Gsm8k().samples(Source("folder", folder, "train"))
    assert [sample.id for sample in train.samples] == ["train-0000"]
    assert train.label == "GSM8K train"


def test_prompts(folder: Path) -> None:
    paper = Gsm8k().samples(Source("folder", folder)).samples[0]
    assert paper.prompt == ("Question:\nHow much is 2+3?\nAnswer:\nLet's think step by step.\n")
    assert paper.reference == ROWS[0]["answer"]
    compact = Gsm8k(template="compact-v1").samples(Source("folder", folder)).samples[0]
    assert compact.prompt == "question: How much is 2+3?\nanswer:"
    assert compact.reference == " " + ROWS[0]["answer"]


def graded(reply: str, reference: str, **settings: Any) -> float:
    return Gsm8k(**settings).score(Sample("x", "", reference), [reply])


def test_score() -> None:
    assert graded("#### 18.00", "#### 18") == 1.0
    assert graded("#### 1034", "#### 1,034") == 1.0
    assert graded("#### 17", "#### 18") == 0.0
    assert graded("", "#### 18") == 0.0
    assert graded("the answer is 18", "#### 18") == 0.0
    assert graded("the answer is 18", "#### 18", extraction="flexible") == 1.0
    assert graded("#### 18 of 20", "#### 18", extraction="flexible") == 0.0
    assert graded("nothing", "nothing") == 0.0
    assert graded("9" * 1_000_000, "#### 18", extraction="flexible") == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "paper-v2"}, "gsm8k has no template 'paper-v2'; did you mean 'paper-v1'"),
        ({"extraction": "lax"}, "gsm8k has no extraction 'lax'; known: flexible, strict"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"train_questions": -1}, "train_questions is -1"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Gsm8k(**settings)


def test_fingerprint(folder: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        return Gsm8k(**settings).samples(Source("folder", folder)).fingerprint

    first = fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(max_new_tokens=7, train_questions=7) == first
    others = [fingerprint(template="compact-v1"), fingerprint(extraction="flexible")]
    write(folder, [*ROWS[:2], ROWS[2] | {"answer": "#### -11"}])
    others.append(fingerprint())
    assert len({first, *others}) == 4


def test_built_in_sample() -> None:
    task = Gsm8k(train_questions=300)
    found, train = task.samples(Source()), task.samples(Source(split="train"))
    assert (len(found.samples), found.label, found.template) == (200, "built-in", "compact-v1")
    assert len(train.samples) == 300
    assert "same stories" in found.notes[0]
    for extraction in ("strict", "flexible"):
        grader = Gsm8k(extraction=extraction)
        assert all(grader.score(each, [each.reference]) == 1.0 for each in found.samples)
    assert sum(task.score(each, ["#### 7"]) for each in found.samples) < 20
    for sample in (*found.samples, *train.samples):
        assert re.fullmatch(r"question: [^\n]+\?\nanswer:", sample.prompt)
        assert re.fullmatch(r" ([^\n#]+\n){2,3}#### \d+", sample.reference)
        assert not any(stop in sample.reference for stop in task.stop)


SCRIPT = """
import sys
from cllm_bench.contracts import Source
from cllm_bench_tasks.gsm8k.task import Gsm8k
from cllm_bench_tasks.prompts import Prompts
print(Gsm8k().samples(Source()).fingerprint)
Prompts().samples(Source())
heavy = {"torch", "transformers", "evaluate", "datasets", "cllm_bench_methods"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


def test_in_another_process_and_without_heavy_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == Gsm8k().samples(Source()).fingerprint


@pytest.fixture
def real_gsm8k(real_data: Path) -> Path:
    if not (real_data / "gsm8k").is_dir():
        pytest.skip(f"no gsm8k in {real_data}")
    return real_data / "gsm8k"


@pytest.mark.parametrize(("split", "count"), [("test", 1319), ("train", 7473)])
def test_real_references_are_right(real_gsm8k: Path, split: Any, count: int) -> None:
    found = Gsm8k().samples(Source("folder", real_gsm8k, split))
    assert len(found.samples) == count
    for extraction in ("strict", "flexible"):
        task = Gsm8k(extraction=extraction)
        assert sum(task.score(each, [each.reference]) for each in found.samples) == count
    rotated = (*found.samples[1:], found.samples[0])
    pairs = zip(found.samples, rotated, strict=True)
    assert sum(Gsm8k().score(one, [other.reference]) for one, other in pairs) < count / 20
