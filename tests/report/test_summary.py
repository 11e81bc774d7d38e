from __future__ import annotations

import json
import math
import random

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.core.sample_ids import conversation, question_of
from cllm_bench.report.summary import summarise
from cllm_bench.results.folder import Row
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.schema import parse
from cllm_bench.results.summary import Summary, Verdicts
from cllm_bench_tasks.humaneval.grading import pass_at_k

DESIGN_KEYS = [
    "method",
    "checkpoint",
    "task",
    "source",
    "samples",
    "failed",
    "metric",
    "score",
    "score_ci",
    "speedup",
    "speedup_ci",
    "tokens_per_second",
    "tokens_per_pass",
    "mean_accept_length",
    "first_token_ms",
    "exactness",
    "exact_match",
    "peak_memory_bytes",
    "parameters",
]
COUNTS = {"samples", "failed", "samples_timed", "repeats"}
TOLD = {
    "schema",
    "method",
    "checkpoint",
    "task",
    "source",
    "metric",
    "exactness",
    "parameters",
    "best_score",
}


def by_method(rows: list[Row], used: Manifest | None = None) -> dict[str, Summary]:
    found = summarise(used or manifest(), rows)
    for each in found:
        stored = json.loads(json.dumps(each.to_json(), allow_nan=False))
        assert parse(Summary, stored) == each  # so every figure is of the kind that is declared
    return {summary.method: summary for summary in found}


def test_a_cell_without_rows_is_all_null() -> None:
    found = summarise(manifest(), [])
    assert [summary.method for summary in found] == ["ar", "jacobi"]
    for each in found:
        summary = each.to_json()
        assert set(DESIGN_KEYS) <= set(summary)
        assert all(summary[name] == 0 for name in COUNTS)
        assert summary["counters"] == summary["errors"] == summary["slowed"] == {}
        rest = set(summary) - COUNTS - TOLD - {"counters", "errors", "slowed"}
        assert {name for name in rest if summary[name] is not None} == set()


def test_speedup_is_the_geometric_mean_of_paired_ratios() -> None:
    rows = [row("ar", f"q{i}", 1.0) for i in range(6)]
    rows += [row("jacobi", f"q{i}", 0.25 if i < 3 else 1.0) for i in range(6)]
    found = by_method(rows)
    assert found["jacobi"].speedup == pytest.approx(2.0)
    low, high = found["jacobi"].speedup_ci
    assert 1 <= low < 2 < high <= 4
    assert (found["ar"].speedup, found["ar"].speedup_ci) == (1.0, None)
    assert found["jacobi"].speedup_ratio_of_totals == pytest.approx(6 / 3.75)
    assert found["jacobi"].tokens_per_second == pytest.approx(6 / 3.75)
    # (0.5 + 10 × pace) / 11, so 10.5 against 3.0 seconds for half of the prompts
    assert found["jacobi"].speedup_end_to_end == pytest.approx(math.sqrt(10.5 / 3.0))
    assert found["ar"].speedup_end_to_end == 1.0
    assert found["jacobi"].efficiency == pytest.approx(2.0)
    assert found["jacobi"].speedup_vs_own_ar == pytest.approx(2.0)
    assert found["ar"].speedup_vs_own_ar is None


def test_drift_of_the_machine_cancels_through_pairing() -> None:
    noise = random.Random(0)
    rows = []
    for repeat in range(3):
        for i in range(40):
            drift = 1 + (repeat * 40 + i) / 20  # the machine grows seven times slower
            for method, pace in (("ar", 1.0), ("jacobi", 0.5)):
                seconds = pace * drift * noise.uniform(0.98, 1.02)
                rows.append(row(method, f"q{i}", seconds, repeat=repeat))
    found = by_method(rows)["jacobi"]
    assert found.speedup == pytest.approx(2.0, rel=0.01)
    low, high = found.speedup_ci
    assert low < 2.0 < high
    assert high - low < 0.05
    assert found.spread > 0.3
    assert found.repeats == 3


def test_one_slow_repeat_does_not_move_the_median() -> None:
    rows = [row("ar", "q", 1.0, repeat=r) for r in range(3)]
    rows += [row("jacobi", "q", pace, repeat=r) for r, pace in enumerate((0.5, 50.0, 0.5))]
    found = by_method(rows)["jacobi"]
    assert found.speedup == pytest.approx(2.0)
    assert found.speedup_ci is None  # one prompt


def test_a_failure_is_a_zero_and_not_a_gap() -> None:
    rows = [row("ar", f"q{i}") for i in range(10)]
    rows += [row("jacobi", f"q{i}", 0.5) for i in range(8)]
    rows += [failed("jacobi", "q8"), failed("jacobi", "q9")]
    found = by_method(rows)
    jacobi = found["jacobi"]
    assert (jacobi.samples, jacobi.failed, jacobi.samples_timed) == (10, 2, 8)
    assert jacobi.score == pytest.approx(0.8)
    assert jacobi.score_difference == pytest.approx(-0.2)
    assert jacobi.score_difference_ci == pytest.approx([-0.48, 0.15], abs=0.01)
    assert jacobi.exact_match == pytest.approx(0.8)
    assert jacobi.verdicts == Verdicts(exact=8, tie=0, mismatch=0)
    assert jacobi.errors == {"OutOfMemoryError: no memory": 2}
    assert jacobi.speedup == pytest.approx(2.0)
    assert found["ar"].score == 1.0
    assert found["ar"].score_ci[0] == pytest.approx(0.722, abs=0.001)  # Wilson, 10 of 10
    assert found["ar"].score_difference is None


def test_a_method_that_always_fails_scores_zero() -> None:
    rows = [row("ar", f"q{i}") for i in range(6)] + [failed("jacobi", f"q{i}") for i in range(6)]
    found = by_method(rows)["jacobi"]
    assert found.score == 0.0
    assert found.failed == 6
    for name in ("speedup", "tokens_per_second", "tokens_per_pass", "first_token_ms", "spread"):
        assert getattr(found, name) is None


def test_a_failed_grading_scores_zero_and_leaves_the_time() -> None:
    rows = [row("ar", "q1"), row("ar", "q2"), row("jacobi", "q1", 0.5)]
    rows.append(row("jacobi", "q2", 0.5, finish="failed", score=None, error="grading failed: x"))
    found = by_method(rows)["jacobi"]
    assert (found.score, found.failed, found.samples_timed) == (0.5, 1, 2)
    assert found.exact_match == 1.0


def test_a_task_without_grader_has_no_score_even_where_a_method_failed() -> None:
    rows = [row("ar", "q", score=None), failed("jacobi", "q")]
    assert {summary.score for summary in by_method(rows).values()} == {None}


def test_a_reply_of_one_token_counts_but_has_no_ratio() -> None:
    rows = []
    for method, pace in (("ar", 1.0), ("jacobi", 0.5)):
        rows.append(row(method, "long", pace))
        rows.append(row(method, "short", tokens=1, decode_seconds=0.0))
    found = by_method(rows)["jacobi"]
    assert (found.samples, found.samples_timed) == (2, 1)
    assert found.speedup == pytest.approx(2.0)
    assert found.speedup_end_to_end == pytest.approx(math.sqrt(10.5 / 5.5 * 1.0))
    assert found.median_new_tokens == 6


def test_passes_and_accept_lengths() -> None:
    rows = [
        row("ar", "q"),
        # The last pass gave four tokens, of which two were kept.
        row("jacobi", "q", 0.5, tokens=11, accept_lengths=(4, 4, 4), drafted=(4, 4, 4)),
    ]
    found = by_method(rows)
    assert found["ar"].tokens_per_pass == 1.0
    assert found["jacobi"].tokens_per_pass == pytest.approx(10 / 3)
    assert found["jacobi"].mean_accept_length == 4.0
    assert found["jacobi"].accept_length_histogram == {"4": 3}
    assert found["jacobi"].efficiency == pytest.approx(2.0 / (10 / 3))
    assert found["jacobi"].first_token_ms == pytest.approx(500)


def test_verdicts_take_the_worst_repeat() -> None:
    rows = [row("ar", f"q{i}") for i in range(3)]
    rows += [row("jacobi", f"q{i}") for i in range(3)]
    rows += [row("jacobi", "q0", repeat=1, verdict="mismatch", first_difference=3)]
    rows += [row("jacobi", "q1", repeat=1, verdict="tie", first_difference=3)]
    found = by_method(rows)["jacobi"]
    assert found.verdicts == Verdicts(exact=1, tie=1, mismatch=1)
    assert found.exact_match == pytest.approx(1 / 3)


def test_the_own_baseline_is_the_one_on_the_same_checkpoint() -> None:
    used = manifest(cell("ar"), cell("ar:checkpoint=cllm", "cllm"), cell("cllm", "cllm"))
    paces = {"ar": 1.0, "ar:checkpoint=cllm": 2.0, "cllm": 0.5}
    rows = [row(method, f"q{i}", pace) for method, pace in paces.items() for i in range(5)]
    found = by_method(rows, used)
    assert found["cllm"].speedup == pytest.approx(2.0)
    assert found["cllm"].speedup_vs_own_ar == pytest.approx(4.0)
    own = found["ar:checkpoint=cllm"]
    assert own.speedup == pytest.approx(0.5)
    assert own.speedup_ci == pytest.approx([0.5, 0.5])
    assert own.speedup_vs_own_ar is own.speedup_vs_own_ar_ci is None


def test_the_score_of_repeat_zero_counts_once() -> None:
    rows = [row("ar", f"q{i}", repeat=r) for i in range(5) for r in range(3)]
    rows += [row("jacobi", f"q{i}", repeat=r) for i in range(5) for r in range(3)]
    found = by_method(rows)["jacobi"]
    assert found.samples == 5
    assert found.score == 1.0


def test_scores_between_zero_and_best_get_a_bootstrap() -> None:
    rows = [row("ar", f"q{i}", score=float(i)) for i in range(11)]
    rows += [row("jacobi", f"q{i}", score=min(10.0, i + 1.0)) for i in range(11)]
    found = by_method(rows, manifest(best_score=10.0))
    assert found["ar"].score == 5.0
    low, high = found["ar"].score_ci
    assert 2 < low < 4 < 6 < high < 8
    assert found["jacobi"].score_difference == pytest.approx(10 / 11)


def test_turns_of_a_conversation_are_one_score_and_one_cluster() -> None:
    assert conversation("81/turn-2") == "81"
    assert conversation("HumanEval/12") == question_of("HumanEval/12") == "HumanEval/12"
    assert question_of("81/draw-3/turn-2") == question_of("81/draw-4") == "81"
    rows = []
    for i in range(4):
        for turn in (1, 2):
            score = None if turn == 1 else float(i % 2)
            rows.append(row("ar", f"{i}/turn-{turn}", score=score))
            rows.append(row("jacobi", f"{i}/turn-{turn}", 0.5, score=score))
    rows.append(failed("jacobi", "5/turn-1"))
    found = by_method(rows)
    assert found["ar"].score == 0.5
    assert found["jacobi"].score == pytest.approx(2 / 5)
    assert found["jacobi"].speedup_ci is None  # eight turns, but four conversations


def test_draws_of_a_question_are_one_score_and_one_cluster() -> None:
    """Of question i the first i of four draws are right; one more has failed."""
    used = manifest(tasks=(task(best_of=2),))
    rows = []
    for i in range(4):
        for draw in range(4):
            name = f"{i}/draw-{draw + 1}"
            rows.append(row("ar", name, score=float(draw < i)))
            rows.append(row("jacobi", name, 0.5, score=1.0))
        rows.append(failed("ar", f"{i}/draw-5"))
    rows.append(row("ar", "4/draw-1"))  # of two draws that the score needs
    found = by_method(rows, used)
    chances = [pass_at_k(5, i, 2) for i in range(4)]
    assert found["ar"].score == pytest.approx(sum(chances) / 4)
    assert found["jacobi"].score == 1.0
    assert found["jacobi"].score_difference == pytest.approx(1 - sum(chances) / 4)
    for name in ("score_ci", "score_difference_ci", "speedup_ci"):
        assert getattr(found["jacobi"], name) is None  # sixteen pairs of draws, but four questions
    assert found["ar"].samples == 21


def test_rates_counters_and_memory() -> None:
    rows = [
        row("ar", "q0", finish="length", peak_memory_bytes=5),
        row("ar", "q1", repetitive=True, peak_memory_bytes=9, prompt_tokens=30),
        row("jacobi", "q0", counters={"fast_forwarded": 1.0}),
        row("jacobi", "q0", counters={"fast_forwarded": 3.0}, repeat=1),
        row("jacobi", "q1", counters={"fast_forwarded": 4.0, "stationary": 1.0}),
    ]
    found = by_method(rows)
    assert (found["ar"].cut_off, found["ar"].repetitive) == (0.5, 0.5)
    assert found["ar"].peak_memory_bytes == 9
    assert found["ar"].median_prompt_tokens == 25
    assert found["jacobi"].peak_memory_bytes is None
    assert found["jacobi"].counters == {"fast_forwarded": 3.0, "stationary": 1.0}


def test_rows_of_one_task_do_not_leak_into_another() -> None:
    used = manifest(tasks=(task(), task("gsm8k")))
    found = summarise(used, [row("ar", "q0"), row("jacobi", "q0", 0.5)])
    assert [(s.task, s.method, s.samples) for s in found] == [
        ("spider", "ar", 1),
        ("spider", "jacobi", 1),
        ("gsm8k", "ar", 0),
        ("gsm8k", "jacobi", 0),
    ]


def test_guesses_are_counted_by_their_fate() -> None:
    """Four passes guess 3, 3, 1 and 0 tokens ahead; 3, 1, 0 and 0 of these are kept."""
    rows = [row("jacobi", "q0", accept_lengths=(4, 2, 1, 1), drafted=(3, 3, 1, 0))]
    found = by_method(rows)
    assert found["jacobi"].drafted_per_pass == 7 / 4
    assert found["jacobi"].wasted_drafts == pytest.approx(3 / 7)
    assert found["jacobi"].acceptance_by_position == (2 / 3, 1 / 2, 1 / 2)
    assert found["ar"].acceptance_by_position is None
