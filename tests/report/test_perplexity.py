"""Perplexity in summaries and tables: intervals, and differences paired by stretches of text."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from perplexities import measured
from synthetic import cell, failed, manifest, row

from cllm_bench.report import perplexity as report_perplexity
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table


def test_a_difference_is_paired_by_stretches_of_text():
    used = manifest(cell("ar"), cell("ar:checkpoint=b", "b"), best_score=0.0)
    spread = [150.0, 180.0, 200.0, 220.0, 240.0, 260.0]
    ours, theirs = measured(nlls=spread), measured("b", nlls=[nll + 10 for nll in spread])
    target, other = summarise(used, [row("ar", "q", score=None)], [ours, theirs])
    wide = target.score_ci[1] - target.score_ci[0]
    low, high = other.score_difference_ci
    assert other.score_difference == pytest.approx(other.score - target.score)
    assert 0 < low < high
    assert high - low < wide / 4


def test_few_stretches_give_no_interval():
    (found,) = summarise(manifest(cell("ar")), [], [measured(nlls=[200.0] * 4)])
    assert found.score == pytest.approx(math.exp(200 / 99))
    assert found.score_ci is None


def test_a_task_without_a_text_has_no_perplexity():
    found = summarise(manifest(), [row("ar", "q0")], [measured(task="other")])
    assert [summary.perplexity for summary in found] == [None, None]
    assert "perplexity" not in comparison_table([(manifest(), found)])


def test_failed_continuations_leave_the_score_alone():
    used = manifest(cell("ar"), best_score=0.0)
    found = summarise(used, [failed("ar", "q0")], [measured()])
    assert found[0].score == pytest.approx(math.exp(200 / 99))
    text = comparison_table([(used, found)])
    assert "ar failed on 1 of 1 questions" in text
    assert "count as score 0" not in text


def test_what_tables_need_loads_no_torch():
    source = Path(report_perplexity.__file__).read_text(encoding="utf-8")
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names == {"numpy"}
