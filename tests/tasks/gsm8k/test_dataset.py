"""GSM8K's files and its place on the Hub, and what a user is told."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from gsm8k_folders import ROWS

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.gsm8k.task import Gsm8k


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
