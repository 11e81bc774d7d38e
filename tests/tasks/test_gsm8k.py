"""GSM8K: prompts, sources, what counts as an answer, and what a user is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cllm_bench.contracts import Sample, Source, Task
from cllm_bench.errors import UserError
from cllm_bench_tasks.gsm8k.extraction import flexible_number, strict_number
from cllm_bench_tasks.gsm8k.task import Gsm8k

ROWS = [
    {"question": " How much is 2+3? ", "answer": "It is 2+3 = <<2+3=5>>5.\n#### 5"},
    {"question": "How far?", "answer": "1000+34 = $<<1000+34=1034>>1034\n#### 1,034"},
    {"question": "How cold?", "answer": "Very cold.\n#### -10"},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "test.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(write(tmp_path / "gsm8k", ROWS), ROWS[:1], "train.jsonl")


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


@pytest.mark.parametrize(
    ("reply", "strict", "flexible"),
    [
        ("5 + 13 = 18\n#### 18", "18", "18"),
        ("#### 18\n\nSo the answer is 18.", "18", "18"),
        ("#### 1,234,567.50", "1234567.50", "1234567.50"),
        ("#### 18.", "18", "18"),
        ("#### -7", "-7", "-7"),
        ("#### 18 dollars", "18", "18"),
        ("#### 3\n#### 4", "3", "4"),
        ("#### 18\nShe has 20 left.", "18", "20"),
        ("####18", None, "18"),
        ("#### $18", None, "18"),
        ("#### eighteen", None, None),
        ("The answer is $1,034.", None, "1034"),
        ("It costs -$5.25", None, "-5.25"),
        ("Tom pays $18...", None, "18"),
        ("It is 18, or so it seems...", None, "18"),
        ("12 - 5 = 7 apples, as of 1.2.2024", None, "7"),
        ("It is 18 :-)", None, "18"),
        ("", None, None),
        ("no number, $ or . or ,", None, None),
        ("#### ,.", None, None),
        ("\ud800 #### 4", "4", "4"),
    ],
)
def test_extraction(reply: str, strict: str | None, flexible: str | None) -> None:
    assert strict_number(reply) == (None if strict is None else Decimal(strict))
    assert flexible_number(reply) == (None if flexible is None else Decimal(flexible))


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
    ("line", "message"),
    [
        ('{"question": "q", "answer": "#### 1"', "test.jsonl line 2: no JSON: Expecting"),
        ('{"question": "q"}', "test.jsonl line 2: no field 'answer'; it has question;"),
        ('{"answer": "#### 1"}', "test.jsonl line 2: no field 'question'; it has answer;"),
        ('{"question": 7, "answer": "#### 1"}', "line 2: field 'question' holds 7 instead of"),
        ('{"question": "q", "answer": "one"}', "line 2: the answer has no number after '#### '"),
    ],
)
def test_damaged_lines_are_named(folder: Path, line: str, message: str) -> None:
    file = folder / "test.jsonl"
    first = file.read_text(encoding="utf-8").splitlines()[0]
    file.write_text(f"{first}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        Gsm8k().samples(Source("folder", folder))


def test_folders_that_are_not_gsm8k(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no folder 'None'; give --data the folder of GSM8K"):
        Gsm8k().samples(Source("folder"))
    with pytest.raises(UserError, match=r"is no GSM8K folder: it has no test\.jsonl; give --data"):
        Gsm8k().samples(Source("folder", tmp_path))
    (folder / "test.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"test\.jsonl' is empty"):
        Gsm8k().samples(Source("folder", folder))


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


@pytest.mark.filterwarnings("default")  # of the libraries that datasets imports
def test_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*arguments: str, split: str) -> Any:
        asked.append((*arguments, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Gsm8k().samples(Source("hub"))
    assert asked == [("openai/gsm8k", "main", "test")]
    assert found == Gsm8k().samples(Source("folder", folder))  # the same questions and grades


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("error", ["builtins.ConnectionError", "http.ConnectError"])
def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """Nor may an error of the HTTP library pass that the Hub's client is built on."""
    datasets = pytest.importorskip("datasets")
    from huggingface_hub.utils import get_session

    module, _, name = error.partition(".")
    http = type(get_session()).__module__.partition(".")[0]
    failure = getattr(import_module(http if module == "http" else module), name)

    def fail(*_: str, split: str) -> Any:
        raise failure("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"cannot load 'openai/gsm8k'.*reach the Hub; or give --"):
        Gsm8k().samples(Source("hub"))


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
