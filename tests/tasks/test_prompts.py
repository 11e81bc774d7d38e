"""Prompts of one's own: what is asked, and that nothing is graded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from families import cli, rows

from cllm_bench.contracts import ChatTask, Source, Task
from cllm_bench.errors import UserError
from cllm_bench_tasks.prompts import Conversations, Prompts

LINES = [
    {"question_id": 81, "category": "writing", "turns": ["one two three", "four"]},
    {"prompt": "two three\n"},
    {"id": "mine", "question": "three four five"},
]


def write(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "question.jsonl", LINES)


def test_they_are_tasks() -> None:
    assert isinstance(Prompts(), Task)
    assert isinstance(Conversations(), Task)
    assert isinstance(Conversations(), ChatTask)
    assert not isinstance(Prompts(), ChatTask)
    assert Prompts.metric == "quality not graded"
    assert Prompts().stop == ()


def test_file(file: Path) -> None:
    found = Prompts(path=file).samples(Source())
    assert [(sample.id, sample.prompt) for sample in found.samples] == [
        ("81", "one two three"),
        ("question-0001", "two three\n"),
        ("mine", "three four five"),
    ]
    assert (found.label, found.template) == ("question.jsonl", "verbatim")
    assert found.notes == (
        "1 of 3 entries have more than one turn, and only the first is asked; the task "
        "conversations asks them all",
    )
    assert Prompts(path=file).score(found.samples[0], ["anything"]) is None


def test_a_folder_of_spec_bench(file: Path) -> None:
    found = Prompts().samples(Source("folder", file.parent))
    assert found == Prompts(path=file).samples(Source("hub"))
    with pytest.raises(UserError, match=r"no file '.*question.jsonl': give a JSON-lines file"):
        Prompts().samples(Source("folder", file.parent / "elsewhere"))


def test_conversations(file: Path) -> None:
    task = Conversations(path=file, chat_template="vicuna-v1.1")
    found = task.samples(Source())
    assert [task.turns(sample) for sample in found.samples] == [2, 1, 1]
    assert (found.template, found.notes) == ("chat vicuna-v1.1", ())
    assert task.messages(found.samples[0], []) == [{"role": "user", "content": "one two three"}]
    assert task.messages(found.samples[0], ["yes"]) == [
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "four"},
    ]


def test_fingerprint(file: Path) -> None:
    def fingerprint(task: Prompts) -> str:
        return task.samples(Source()).fingerprint

    first = fingerprint(Prompts(path=file))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert fingerprint(Prompts(path=file, max_new_tokens=9)) == first
    others = [
        fingerprint(Conversations(path=file)),
        fingerprint(Conversations(path=file, chat_template="plain")),
    ]
    write(file, [LINES[0] | {"turns": ["one two three", "five"]}, *LINES[1:]])
    others.append(fingerprint(Prompts(path=file)))
    assert len({first, *others}) == 4


def test_built_in_prompts() -> None:
    found = Prompts().samples(Source())
    train = Prompts().samples(Source(split="train"))
    assert (len(found.samples), found.label, found.notes) == (200, "built-in", ())
    assert not {sample.prompt for sample in found.samples} & {s.prompt for s in train.samples}
    assert found.samples[0].prompt.startswith("question: ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "x"}], "line 1: no field prompt or question or turns; it has text;"),
        ([LINES[1], {"prompt": ""}], "line 2: field 'prompt' holds \"\" instead of text;"),
        ([{"turns": []}], "line 1: field 'turns' holds [] instead of a list of texts;"),
        ([LINES[0], LINES[1], LINES[0]], "line 3: id '81' is that of line 1 too;"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    file = write(tmp_path / "p.jsonl", lines)
    with pytest.raises(UserError, match=re.escape(message)):
        Prompts(path=file).samples(Source())


def test_no_file() -> None:
    with pytest.raises(UserError, match=r"no file 'nowhere\.jsonl'"):
        Prompts(path=Path("nowhere.jsonl")).samples(Source())
    with pytest.raises(UserError, match="in no public data set: name a JSON-lines file with path="):
        Prompts().samples(Source("hub"))
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        Prompts(max_new_tokens=0)


PLUGIN = """
from dataclasses import dataclass

from cllm_bench_tasks.prompts import Conversations, Prompts


@dataclass(frozen=True)
class MyPrompts(Prompts):
    pass


@dataclass(frozen=True)
class MyTalks(Conversations):
    pass
"""


def test_a_run_is_timed_and_not_graded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: tuple[Path, Path], file: Path
) -> None:
    plugin, out = tmp_path / "plugin.py", tmp_path / "out"
    plugin.write_text(PLUGIN, encoding="utf-8")
    tasks = [
        f"my_prompts:path={file},max_new_tokens=6",
        f"my_talks:path={file},chat_template=plain,max_new_tokens=6",
    ]
    asked = [part for task in tasks for part in ("--task", task)]
    common = [
        "run",
        "--no-noise-floor",
        "--model",
        tiny[0],
        "--plugin",
        plugin,
        "--threads",
        1,
        "--repeats",
        1,
    ]
    assert cli(monkeypatch, *common, *asked, "--method", "jacobi", "--output", out) == 0
    summaries = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert len(summaries) == 4
    for summary in summaries:
        assert summary["metric"] == "quality not graded"
        assert (summary["score"], summary["score_ci"], summary["failed"]) == (None, None, 0)
        assert summary["tokens_per_second"] > 0
        assert summary["exact_match"] in (None, 1.0)
    ids = {row["sample"] for row in rows(out)}
    assert {"81", "mine", "81/turn-1", "81/turn-2", "mine/turn-1"} <= ids
    assert {row["score"] for row in rows(out)} == {None}


def test_real_spec_bench(real_data: Path) -> None:
    folder = real_data / "spec_bench"
    if not folder.is_dir():
        pytest.skip(f"no spec_bench in {real_data}")
    found = Prompts().samples(Source("folder", folder))
    assert len(found.samples) == 480
    assert found.notes[0].startswith("80 of 480 entries have more than one turn")
    task = Conversations()
    assert sum(map(task.turns, found.samples)) == 560
