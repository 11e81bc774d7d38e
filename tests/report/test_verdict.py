"""The verdict in words: what it claims, and that it claims no more than was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.contracts import Sampling
from cllm_bench.report.columns import Line
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table, lines_of
from cllm_bench.report.verdict import verdicts
from cllm_bench.results.folder import Row
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.summary import JudgeFigures, PerplexityFigures, Summary

OWN = "ar:checkpoint=cllm"
CLLM = (cell("ar"), cell("ar A/A", again=True), cell(OWN, "cllm"), cell("cllm", "cllm"))


def told(used: Manifest, found: list[Row]) -> list[str]:
    return [each.text for each in verdicts(lines_of([(used, summarise(used, found))]))]


def paced(method: str, pace: float, spread: float = 0.0, **changes: Any) -> list[Row]:
    """Return rows of six questions, whose paces lie around a mean."""
    return [
        row(method, f"q{i}", pace * (1 + spread * (-1) ** i), repeat=repeat, **changes)
        for i in range(6)
        for repeat in range(3)
    ]


def changed(figures: dict[str, Any], used: Manifest | None = None) -> str:
    """Return the verdict on a method whose summary is changed."""
    used = used or manifest(*CLLM)
    rows = [each for one in used.cells for each in paced(one.method, 1.0)]
    summaries = summarise(used, rows)
    if "perplexity" in figures:
        summaries[0] = replace(summaries[0], best_score=0.0, score=3.4, score_ci=(3.3, 3.5))
    summaries[-1] = replace(summaries[-1], **figures)
    (found,) = verdicts(lines_of([(used, summaries)]))
    return found.text


def test_the_main_job() -> None:
    rows = [*paced("ar", 1.0), *paced("ar A/A", 1.0), *paced(OWN, 1.0), *paced("cllm", 0.5, 0.1)]
    used = manifest(*CLLM)
    (text,) = told(used, rows)
    assert text == (
        "cllm decodes 2.01× as fast as ar [1.82, 2.22] on spider (1.92× with the prefill); "
        "score 0 points [−35, +35]; every reply equals its own autoregressive decoding."
    )
    table = comparison_table([(used, summarise(used, rows))])
    assert table.startswith(
        "# cllm-bench results\n\n- **cllm decodes 2.01× as fast as ar [1.82, 2.22] on spider "
        "(1.92× with the prefill)**; score 0 points"
    )


@pytest.mark.parametrize(
    ("speedup", "interval", "expected"),
    [
        (3.6, (3.4, 3.8), "cllm decodes 3.60× as fast as ar [3.40, 3.80] on spider"),
        (0.6, (0.58, 0.62), "cllm is slower than ar on spider: 0.60× its speed [0.58, 0.62]"),
        (1.1, (0.9, 1.3), "cllm cannot be told from ar in speed on spider: 1.10× [0.90, 1.30];"),
        (
            1.02,
            (1.01, 1.03),
            "cllm is within the noise of ar on spider: 1.02× [1.01, 1.03], where ar differs from "
            "itself by up to 2.0%;",
        ),
        (1.05, (1.03, 1.07), "cllm decodes 1.05× as fast as ar [1.03, 1.07] on spider"),
        (2.0, None, "cllm decodes at 2.00× the speed of ar on spider, from too few questions"),
        (None, None, "the speed of cllm on spider was not measured;"),
    ],
)
def test_speed(speedup: float | None, interval: tuple[float, float] | None, expected: str) -> None:
    used = manifest(*CLLM)
    rows = [each for one in used.cells for each in paced(one.method, 1.0)]
    baseline, again, own, cllm = summarise(used, rows)
    again = replace(again, speedup_ci=(0.98, 1.01))
    cllm = replace(cllm, speedup=speedup, speedup_ci=interval)
    (found,) = verdicts(lines_of([(used, [baseline, again, own, cllm])]))
    assert found.text.startswith(expected)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (
            {"score_difference": -0.005, "score_difference_ci": (-0.02, 0.01)},
            "score −0.5 points [−2.0, +1.0];",
        ),
        (
            {"score_difference": -0.3, "score_difference_ci": (-0.4, -0.2)},
            "score −30 points [−40, −20], worse;",
        ),
        (
            {
                "best_score": 10.0,
                "score_difference": 1.0,
                "score_difference_ci": (0.5, 1.5),
            },
            "score +1.0 [+0.5, +1.5] on a scale to 10, better;",
        ),
        ({"score": None, "score_difference": None}, "; not graded;"),
        (
            {
                "score": None,
                "judge": JudgeFigures(
                    name=None,
                    replies=6,
                    judged=0,
                    requests=0,
                    failures=0,
                    prompt_tokens=None,
                    completion_tokens=None,
                    others=(),
                ),
            },
            "; not judged yet;",
        ),
    ],
)
def test_quality(figures: dict[str, Any], expected: str) -> None:
    assert expected in changed(figures)


def test_perplexity_belongs_to_the_weights() -> None:
    found = PerplexityFigures(
        window=8,
        stride=8,
        remainder="drop",
        windows=1,
        text_tokens=8,
        words=8,
        tokens=8,
        nll=1.0,
        token=46.2,
        word=50.0,
        seconds=1.0,
    )
    figures = {
        "perplexity": found,
        "best_score": 0.0,
        "score": 46.2,
        "score_ci": (43.0, 49.0),
        "score_difference": 42.8,
        "score_difference_ci": (40.5, 45.3),
    }
    assert "perplexity 46.2 instead of 3.40: +42.8 [+40.5, +45.3], worse;" in changed(figures)
    same = manifest(cell("ar"), cell("jacobi"))
    assert "perplexity 46.2, that of the same weights;" in changed(figures, same)


def exactness(verdicts: list[str], **changes: Any) -> str:
    used = manifest(cell("ar"), cell("jacobi", **changes))
    rows = [row("ar", f"q{i}") for i in range(6)]
    rows += [row("jacobi", f"q{i}", 0.5, verdict=each) for i, each in enumerate(verdicts)]
    return told(replace(used, repeats=1), rows)[0].rpartition("; ")[2]


def test_exactness_is_counted() -> None:
    exact = ["exact"] * 6
    assert exactness(exact) == "every reply equals ar's."
    assert exactness([*exact[:5], "tie"]) == (
        "5 of 6 replies equal ar's, the others up to a numerical tie."
    )
    assert exactness([*exact[:4], "tie", "mismatch"]) == (
        "4 of 6 replies equal ar's, 1 up to a numerical tie, and 1 does not, although it claims to "
        "be exact."
    )
    assert exactness([*exact[:4], "mismatch", "mismatch"], exactness="lossy") == (
        "lossy by design: 4 of 6 replies equal ar's."
    )


def test_sampled_replies_have_only_a_distribution_in_common() -> None:
    used = manifest(
        cell("ar"), cell("jacobi", exactness="distribution"), sampling=Sampling(0.7), repeats=1
    )
    rows = [row("ar", f"q{i}") for i in range(6)]
    rows += [row("jacobi", f"q{i}", verdict=None) for i in range(6)]
    assert "differ by design and have the same distribution." in told(used, rows)[0]
    rows = [replace(each, verdict=None) for each in rows]
    exact = manifest(cell("ar"), cell("jacobi"), repeats=1)
    assert "its replies were not compared." in told(exact, rows)[0]


def test_failed_and_unfinished_rows_are_told() -> None:
    used = manifest(repeats=1)
    rows = [row("ar", f"q{i}") for i in range(6)]
    assert told(used, rows) == ["jacobi has not answered a question of spider yet."]
    some = [row("jacobi", "q0", 0.5), row("jacobi", "q1", 0.4), failed("jacobi", "q2")]
    assert told(used, rows + some)[0].endswith(
        "every reply equals ar's; 1 of 3 questions failed; unfinished, with 3 of 6 questions "
        "answered."
    )
    broken = [failed("jacobi", f"q{i}") for i in range(6)]
    assert told(used, rows + broken) == ["jacobi failed on all 6 questions of spider."]
    whole = [row("jacobi", f"q{i}", 0.5) for i in range(6)]
    later = replace(used, repeats=3)
    assert told(later, rows + whole)[0].endswith("; unfinished, with 1 of 3 repeats.")


def test_every_method_has_a_verdict_on_every_task() -> None:
    used = manifest(cell("ar"), cell("jacobi"), cell("medusa"), tasks=(task(), task("chat")))
    found = [
        row(method, f"q{i}", 0.5 if method != "ar" else 1.0, task=name)
        for method in ("ar", "jacobi", "medusa")
        for name in ("spider", "chat")
        for i in range(6)
    ]
    begins = [text.split(" as fast")[0] for text in told(used, found)]
    assert begins == [f"{name} decodes 2.00×" for name in ("jacobi", "medusa")] * 2


def test_a_baseline_has_a_verdict_where_it_was_asked_for() -> None:
    alone = manifest(cell("ar"), cell("ar A/A", again=True), repeats=1)
    rows = [row(name, f"q{i}") for name in ("ar", "ar A/A") for i in range(6)]
    assert told(alone, rows) == [
        "ar decodes 1.00 tokens per second on spider; score 100% [61, 100]; no other method was "
        "asked for."
    ]
    other = manifest(cell("ar"), cell(OWN, "cllm"), repeats=1)
    rows = [row("ar", f"q{i}") for i in range(6)] + [row(OWN, f"q{i}", 2.0) for i in range(6)]
    (text,) = told(other, rows)
    assert text.startswith(f"{OWN} is slower than ar on spider: 0.50× its speed [0.50, 0.50]")
    assert text.endswith("it is autoregressive decoding itself.")


def test_several_runs_are_told_apart() -> None:
    def lines(*models: str) -> list[Line]:
        runs: list[tuple[Manifest, list[Summary]]] = []
        for model in models:
            used = manifest(model=model)
            rows = paced("ar", 1.0) + paced("jacobi", 0.5)
            runs.append((used, summarise(used, rows)))
        return lines_of(runs)

    assert [each.text[:20] for each in verdicts(lines("mini", "big"))] == [
        "model mini: jacobi d",
        "model big: jacobi de",
    ]
    assert [each.text[:13] for each in verdicts(lines("mini", "mini"))] == [
        "run 1: jacobi",
        "run 2: jacobi",
    ]
