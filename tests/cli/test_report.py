"""The commands `report`, `plot` and `table --format`."""

from __future__ import annotations

import pytest
from families import cli
from synthetic import manifest, row

from cllm_bench.results.folder import ResultFolder


@pytest.fixture
def run(tmp_path):
    with ResultFolder.open(tmp_path / "run", manifest()) as folder:
        for method, pace in (("ar", 1.0), ("jacobi", 0.5)):
            folder.append([row(method, f"q{i}", pace) for i in range(6)])
    return tmp_path / "run"


def test_report_replaces_its_own_page_and_nothing_else(monkeypatch, run, tmp_path, capsys):
    assert cli(monkeypatch, "report", run) == 0
    first = (run / "report.html").read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    assert cli(monkeypatch, "report", run) == 0
    assert (run / "report.html").read_text(encoding="utf-8") == first
    other = tmp_path / "notes.html"
    other.write_text("about cllm-bench report", encoding="utf-8")
    assert cli(monkeypatch, "report", run, "--output", other) == 2
    assert "pick another --output" in capsys.readouterr().err
    assert other.read_text(encoding="utf-8") == "about cllm-bench report"


def test_plot_writes_pictures_and_spares_others(monkeypatch, run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert cli(monkeypatch, "plot", run, "--output", out, "--format", "png") == 0
    files = sorted(file.name for file in out.iterdir())
    assert "1-spider-speedup.png" in files
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in files)
    (out / "1-spider-time.png").write_bytes(b"mine")
    assert cli(monkeypatch, "plot", run, "--output", out, "--format", "png") == 2
    assert (out / "1-spider-time.png").read_bytes() == b"mine"
    assert cli(monkeypatch, "plot", run, "--format", "pgn") == 2
    assert "did you mean 'png'?" in capsys.readouterr().err


def test_table_in_other_formats(monkeypatch, run, capsys):
    assert cli(monkeypatch, "table", run, "--format", "csv") == 0
    assert capsys.readouterr().out.startswith("run,model,task,source,method")
    assert cli(monkeypatch, "table", run, "--format", "latex") == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
    assert cli(monkeypatch, "table", run, "--format", "excel") == 2
    assert "no table format named 'excel'; known: csv" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "plot"])
def test_a_run_must_be_named(monkeypatch, command, capsys):
    assert cli(monkeypatch, command) == 2
    assert "FOLDERS is missing" in capsys.readouterr().err
