"""The command `compare`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import cli
from large_run import write_run

import cllm_bench

ROWS = 600


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a copy that is a tenth slower, and one on another machine."""
    root = tmp_path_factory.mktemp("runs")
    for name, slower in (("a", 1.0), ("slower", 1 / 0.9), ("elsewhere", 1.0), ("prompts", 1.0)):
        write_run(root / name, ROWS, slower=slower)
    manifest = root / "elsewhere" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("EPYC", "Xeon"))
    samples = root / "prompts" / "samples.jsonl"
    samples.write_text(samples.read_text().replace('"prompt_hash": "0', '"prompt_hash": "f'))
    return root


@pytest.mark.parametrize(
    ("other", "limits", "code", "told"),
    [
        ("a", ["slower:3%", "faster:3%", "score:1"], 0, "does not hold for any of 3"),
        ("slower", ["slower:3%"], 1, "slower:3%: holds for spider ar, spider jacobi, spider cllm"),
        ("slower", ["slower:15%", "faster:3%"], 0, "slower:15%: does not hold for any of 3"),
        ("elsewhere", ["slower:3%"], 0, "slower:3%: does not hold for any of 2"),
        ("slower", [], 0, "| slower |"),
    ],
)
def test_exit_codes(monkeypatch, capsys, runs, other, limits, code, told):
    options = [part for limit in limits for part in ("--fail-if", limit)]
    assert cli(monkeypatch, "compare", runs / "a", runs / other, *options) == code
    printed = capsys.readouterr().out
    assert told in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("other", "limit", "message"),
    [
        ("prompts", "slower:3%", "cannot be checked: no common questions: the prompts differ"),
        ("a", "slowr:3%", "did you mean 'slower'?"),
        ("nowhere", "slower:3%", "is no result folder"),
    ],
)
def test_what_cannot_be_checked_never_passes(monkeypatch, capsys, runs, other, limit, message):
    assert cli(monkeypatch, "compare", runs / "a", runs / other, "--fail-if", limit) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_run_without_rows_is_refused(monkeypatch, capsys, runs, tmp_path):
    (tmp_path / "manifest.json").write_text((runs / "a" / "manifest.json").read_text())
    assert cli(monkeypatch, "compare", runs / "a", tmp_path) == 2
    assert "has no rows" in capsys.readouterr().err


def test_json_is_one_document(monkeypatch, capsys, runs):
    arguments = ["compare", runs / "a", runs / "slower", "--json", "--fail-if", "slower:3%"]
    assert cli(monkeypatch, *arguments) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert [pair["speed"]["word"] for pair in document["pairs"]] == ["slower"] * 3
    assert document["checks"][0]["outcome"] == "holds"
    assert "--fail-if slower:3%: holds" in printed.err
    found = cllm_bench.compare(runs / "a", runs / "slower", fail_if=["slower:3%"])
    assert json.loads(json.dumps(found.to_json())) == document


def test_a_reference_run_is_the_same_as_itself():
    folder = Path(__file__).parents[2] / "results" / "reference" / "mini-tasks"
    found = cllm_bench.compare(folder, folder)
    assert {pair.speed.word for pair in found.pairs} == {"same"}
    assert len(found.pairs) == 18
