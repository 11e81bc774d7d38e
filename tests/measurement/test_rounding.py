"""Rounding is measured before a task's first question, once a folder, and leaves no trace."""

import json

import pytest
from families import cli, rows

from cllm_bench.measurement import rounding
from cllm_bench.measurement.rounding import RoundingSurvey
from cllm_bench.results.folder import ResultFolder


def stored(folder):
    lines = (folder / "rounding.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def order(tmp_path, command):
    methods = ["--method", "jacobi", "--method", "jacobi:checkpoint=other"]
    asked = ["--dtype", "bfloat16", "--limit", 4, "--repeats", 1, "--data", tmp_path]
    return [*command, *methods, *asked, "--output", tmp_path / "out"]


def test_each_checkpoint_is_measured_once_a_folder(monkeypatch, tmp_path, order):
    monkeypatch.setattr(rounding, "POSITIONS", 30)
    out = tmp_path / "out"
    assert cli(monkeypatch, *order) == 0
    found = stored(out)
    assert [(each["task"], each["checkpoint"]) for each in found] == [
        ("counting", "target"),
        ("counting", "other"),
    ]
    for each in found:
        assert each["tolerance"] > 0
        assert 30 <= each["positions"] < 50  # of replies of 20 tokens
        assert each["reason"] is None
    kept = (out / "rounding.jsonl").read_bytes()
    for each in rows(out):  # its passes are counted nowhere
        assert sum(each["pass_shapes"].values()) == len(each["accept_lengths"])

    # A run that was stopped goes on with what is stored: measuring again would fail.
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "samples.jsonl").write_text("".join(lines[:-3]), encoding="utf-8")
    monkeypatch.setattr(RoundingSurvey, "measure", None)
    assert cli(monkeypatch, *order) == 0
    assert len(rows(out)) == len(lines)
    assert (out / "rounding.jsonl").read_bytes() == kept
    folder = ResultFolder.read(out)
    assert folder.roundings["counting", "target"].tolerance == found[0]["tolerance"]
    assert "a tie on `other`" in (out / "table.md").read_text(encoding="utf-8")


def test_what_cannot_be_measured_is_told(monkeypatch, tmp_path, command):
    asked = ["--task", "counting:max_new_tokens=1", "--method", "jacobi", "--dtype", "bfloat16"]
    own = [*command[: command.index("--task")], *command[command.index("--task") + 2 :]]
    more = ["--limit", 2, "--repeats", 1, "--data", tmp_path, "--output", tmp_path / "out"]
    assert cli(monkeypatch, *own, *asked, *more) == 0
    (found,) = stored(tmp_path / "out")
    assert found["tolerance"] is None
    assert found["reason"] == "no reply of ar has a second token"
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "was not measured (no reply of ar has a second token)" in table
