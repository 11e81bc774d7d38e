"""Spider: prompts, sources, fingerprints, and the built-in sample."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sql_fixtures import question, rewrite, source, with_value

from cllm_bench.contracts import Source, Task
from cllm_bench.errors import UserError
from cllm_bench_tasks.spider.task import Spider


def test_it_is_a_task() -> None:
    assert isinstance(Spider(), Task)
    assert (Spider.metric, Spider.best_score, Spider.folders) == (
        "execution accuracy",
        1.0,
        ("spider",),
    )
    assert hash(Spider()) == hash(Spider())


def test_folder(folder: Path) -> None:
    found = Spider().samples(source(folder))
    assert [sample.id for sample in found.samples] == ["dev-0000", "dev-0001", "dev-0002"]
    assert (found.label, found.template) == ("Spider dev", "paper-v1")
    assert found.left_out == {"database 'gone' is not in the folder": ("dev-0003",)}
    (note,) = found.notes
    assert note.startswith("1 of 3 reference queries return no rows")


def test_training_split(folder: Path) -> None:
    found = Spider().samples(source(folder, split="train"))
    assert [sample.id for sample in found.samples] == [
        "train_spider-0000",
        "train_spider-0001",
        "train_others-0000",
    ]
    assert found.label == "Spider train"
    assert found.notes == ()
    (folder / "train_others.json").unlink()
    assert len(Spider().samples(source(folder, split="train")).samples) == 2


def test_prompts(folder: Path) -> None:
    paper = question(folder, 1)
    assert paper.prompt == (
        "### Instruction:\n"
        "Translate the question into an SQL query over these tables. Answer with SQL alone.\n"
        "table named singer with columns ['id', 'name', 'age']\n"
        "table named concert with columns ['Old Name']\n"
        "Question: Old?\n"
        "### Response:\n"
    )
    assert paper.reference == "SELECT name FROM singer WHERE age > 90;"
    compact = question(folder, 1, Spider(template="compact-v1"))
    assert compact.prompt == "singer(id, name, age)\nconcert(Old Name)\nquestion: Old?\nsql:"
    assert compact.reference == " SELECT name FROM singer WHERE age > 90;"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "paper-v2"}, "no template named 'paper-v2'; did you mean 'paper-v1'"),
        ({"seconds": 0}, "seconds is 0"),
        ({"row_limit": -1}, "row_limit is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Spider(**settings)


def test_fingerprint(folder: Path) -> None:
    def fingerprint(**settings: Any) -> str:
        return Spider(**settings).samples(source(folder)).fingerprint

    first = fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint() == first
    assert fingerprint(max_new_tokens=7, train_questions=7) == first
    others = [
        fingerprint(template="compact-v1"),
        fingerprint(seconds=9.0),
        fingerprint(row_limit=99),
        fingerprint(keep_distinct=True),
    ]
    with closing(sqlite3.connect(folder / "database/band/band.sqlite")) as connection:
        connection.execute("UPDATE singer SET age = 41 WHERE id = 1")
        connection.commit()
    others.append(fingerprint())
    rewrite("dev.json", with_value(0, "question", "How many?"))(folder)
    others.append(fingerprint())
    rewrite("dev.json", with_value(0, "query", "SELECT count(id) FROM singer"))(folder)
    others.append(fingerprint())
    assert len({first, *others}) == 1 + len(others)


def test_built_in_sample() -> None:
    task = Spider(train_questions=50)
    found = task.samples(Source())
    assert (len(found.samples), found.label, found.template) == (200, "built-in", "compact-v1")
    assert not found.left_out
    assert [task.score(sample, [sample.reference]) for sample in found.samples] == [1.0] * 200
    assert sum(task.score(sample, ["SELECT 1"]) for sample in found.samples) <= 12
    train = task.samples(Source(split="train"))
    assert len(train.samples) == 50
    assert not {s.prompt for s in train.samples} & {s.prompt for s in found.samples}
    for sample in (*found.samples, *train.samples):
        assert re.fullmatch(r"(\w+\([\w, ]+\)\n)+question: [^\n]+\nsql:", sample.prompt)
        assert re.fullmatch(r" SELECT [^\n]+", sample.reference)


SCRIPT = """
import sys
from cllm_bench.contracts import Source
from cllm_bench_tasks.spider.task import Spider
from sql_fixtures import rewrite, with_value, write_spider
heavy = {"torch", "transformers", "evaluate", "datasets", "sqlparse", "cllm_bench_methods"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
found = Spider(train_questions=1).samples(Source())
assert not (heavy - {"sqlparse"}) & sys.modules.keys()
print(found.samples[0].data["file"])
print(found.fingerprint)
"""


def test_built_in_sample_in_another_process() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    file, fingerprint = done.stdout.split()
    assert not Path(file).parent.exists()  # it went with the process
    assert fingerprint == Spider().samples(Source()).fingerprint


def test_real_training_split(real_spider: Path) -> None:
    found = Spider().samples(Source("folder", real_spider, "train"))
    assert len(found.samples) + sum(map(len, found.left_out.values())) == 8659
    assert found.label == "Spider train"
