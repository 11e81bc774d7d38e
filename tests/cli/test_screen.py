"""What a terminal shows at the end of a run, as a newcomer sees it."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from synthetic import cell, failed, manifest, row, task

from cllm_bench.cli.screen import show
from cllm_bench.report.columns import Run
from cllm_bench.report.summary import summarise
from cllm_bench.results.manifest import CheckpointSource

OWN = "ar:checkpoint=cllm"
FOLDER = Path("results/mini-spider-0a1b2c3d")


def main_job(**changes: Any) -> Run:
    """The main job on a noisy machine, with every remark that it may make about that."""
    cells = (
        cell("ar", weight_bytes=900, cache_bytes_per_token=4),
        *(cell("ar A/A", again=True), cell(OWN, "cllm"), cell("cllm", "cllm")),
    )
    sources = {
        role: CheckpointSource(kind="bundled", location=role, fingerprint=f"sha256:{digit * 64}")
        for role, digit in (("target", "a"), ("cllm", "b"))
    }
    used = manifest(*cells, samples=40, read_bandwidth=10_000.0)
    used = replace(used, sources=sources, **changes)
    found = [
        row(
            each.method,
            f"q{i}",
            (0.4 + 0.01 * (i % 3 - 1) if each.method == "cllm" else 1.0) * (1 + repeat / 5),
            repeat=repeat,
            foreign_load=0.9,
            slowed=("power cap",),
        )
        for each in used.cells
        for i in range(40)
        for repeat in range(3)
    ]
    return used, summarise(used, found)


def shown(runs: list[Run], capsys: pytest.CaptureFixture[str], width: int | None = 80) -> str:
    show(runs, [FOLDER], width=width)
    return capsys.readouterr().out


def test_the_main_job_is_seen_without_scrolling(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown([main_job()], capsys)
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("cllm decodes 2.50× as fast as ar [")
    assert "every reply equals its own autoregressive decoding." in " ".join(lines[:3])
    titles = next(line for line in lines if line.startswith("method"))
    assert re.split(r"\s+", titles.strip()) == [
        "method",
        "score",
        "speedup",
        "pass",
        "tok/s",
        "exact",
    ]
    for part in ("noise floor: ar, measured twice", "noisy machine", "weak baseline", "0.9 of 2"):
        assert part in text
    assert "mini · target aaaaaaaaaa (bundled) · cllm bbbbbbbbbb (bundled) · cpu" in text
    assert lines[-1] == f"all figures: {FOLDER / 'table.md'}"
    assert "Brackets" not in text  # the legend
    assert "**" not in text
    assert "…" not in text  # nothing is cut


def test_without_a_terminal_the_text_is_plain_and_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = shown([main_job()], capsys, None)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].endswith("every reply equals its own autoregressive decoding.")
    assert [line for line in lines if line.startswith("cllm ")][1].split()[1:4] == [
        *("100%", "[91,", "100]"),
    ]


def test_a_terminal_gets_its_width_and_bold_speeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    show([main_job()], [FOLDER])
    text = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("\x1b[1mcllm decodes")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(cell_len, plain.splitlines())) <= 60
    assert "2.50×" in plain


def test_narrower_terminals_leave_out_the_least_important(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [main_job()]
    assert "[91, 100]" in shown(runs, capsys, 80)
    titles = {
        width: next(
            line for line in shown(runs, capsys, width).splitlines() if line.startswith("method")
        ).split()
        for width in (66, 60, 50, 44)
    }
    assert titles[66] == ["method", "score", "speedup", "pass", "tok/s", "exact"]
    assert titles[60] == ["method", "score", "speedup", "pass", "exact"]
    assert titles[50] == ["method", "score", "speedup", "exact"]
    assert titles[44] == ["method", "score", "speedup"]


def test_long_labels_are_folded_where_they_can_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    label = "medusa:nodes=12,tree=auto,epsilon=0.1"
    used = manifest(cell("ar"), cell(label, exactness="lossy"))
    rows = [row(name, f"q{i}") for name in ("ar", label) for i in range(6)]
    lines = shown([(used, summarise(used, rows))], capsys).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("medusa:nodes=12,  "))
    assert lines[at + 1].startswith(" tree=auto,")
    assert lines[at + 2].startswith(" epsilon=0.1 (lossy)  ")


def test_brackets_are_no_markup_and_hostile_text_is_inert(
    capsys: pytest.CaptureFixture[str],
) -> None:
    label = "jacobi:mode=[bold]\x1b[2J" + "x" * 5000
    used = manifest(
        cell("ar"), cell(label), model="m\x1b]0;t\x07\n", tasks=(task(source="\x9b31m"),)
    )
    rows = [row("ar", f"q{i}") for i in range(6)]
    rows += [failed(label, f"q{i}", error="E: [red]\x1b[31m" + "y" * 5000) for i in range(6)]
    text = shown([(used, summarise(used, rows))], capsys)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "jacobi:mode=[bold]\\x1b[2J" in text
    assert "E: [red]\\x1b[31m" in " ".join(text.split())
    assert len(text.splitlines()) < 40
    assert len(text) < 4000


def test_each_run_and_task_has_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    used = manifest(tasks=(task(), task("chat", best_score=10.0)))
    rows = [
        row(method, f"q{i}", task=name)
        for method in ("ar", "jacobi")
        for name in ("spider", "chat")
        for i in range(6)
    ]
    runs = [(each, summarise(each, rows)) for each in (used, replace(used, model="big"))]
    text = shown(runs, capsys)
    assert text.count("\nmodel  method") == 2
    assert text.index("\nspider (built-in, 6 questions)") < text.index("\nchat (built-in, 6")
    assert "run 2: model big" in text
