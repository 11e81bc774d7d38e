"""Speedups against the naive figures of published harnesses, each defect planted.

Defects that are planted elsewhere:

* no idea of the noise: `test_notes.py::test_a_favoured_place_is_seen`
* tokens past the end counted: `decoding/test_loop.py::test_tokens_past_the_end_are_no_speed`
* a fixed neighbour: `test_executor.py::test_a_fixed_neighbour_favours_nobody`
* one method after the other: `test_plan.py::test_a_machine_that_slows_down_favours_nobody`
* no wait for the device: `engine/test_clock.py::test_work_that_the_device_has_not_done_counts`
* "lossless" claimed, not checked: `decoding/test_exactness.py`
* weak baseline: `test_notes.py::test_a_weak_baseline_is_told`
* compared only with its own baseline: `report/test_summary.py` (`speedup_vs_own_ar`)
* turns taken for independent: `report/test_statistics.py`, turns of one conversation
"""

import statistics
from dataclasses import replace

import pytest
from synthetic import cell, failed, manifest, row

from cllm_bench.report.summary import summarise


def by_method(rows, **changes):
    used = manifest(cell("ar"), cell("block"), **changes)
    return {each.method: each for each in summarise(used, rows)}


def test_a_reply_that_degenerates_is_not_dropped():
    """Over the replies that ended well, the method looks right and fast; it fails on a third."""
    rows = [row("ar", f"q{i}", 1.0) for i in range(30)]
    for i in range(30):
        if i % 3:
            rows.append(row("block", f"q{i}", 0.25))
        elif i % 2:
            rows.append(failed("block", f"q{i}"))
        else:  # runs into the limit, one token a pass
            looped = {"finish": "length", "score": 0.0, "repetitive": True}
            rows.append(row("block", f"q{i}", 1.0, tokens=101, **looped))
    good = [each for each in rows if each.method == "block" and each.finish == "stop"]
    assert statistics.mean(each.score for each in good) == 1.0  # the naive figures
    assert statistics.mean(10 / each.decode_seconds for each in good) == 4.0
    found = by_method(rows, samples=30)["block"]
    assert found.score == pytest.approx(20 / 30)
    assert found.failed == 5
    assert found.cut_off == pytest.approx(5 / 30)
    assert found.repetitive == pytest.approx(5 / 30)
    assert found.speedup == pytest.approx(4 ** (20 / 25))
    assert found.samples == 30


def test_a_few_fast_prompts_do_not_make_a_speedup():
    """The ratio of mean tokens a second is ruled by the prompts on which everything is fast."""
    rows = [row("ar", f"q{i}", 1.0) for i in range(18)]
    rows += [row("ar", f"q{i}", 0.01) for i in range(18, 20)]
    rows += [row("block", f"q{i}", 1.0) for i in range(18)]
    rows += [row("block", f"q{i}", 0.005) for i in range(18, 20)]
    rates = {
        name: statistics.mean(10 / each.decode_seconds for each in rows if each.method == name)
        for name in ("ar", "block")
    }
    assert rates["block"] / rates["ar"] == pytest.approx(1.92, abs=0.01)  # the naive figure
    found = by_method(rows, samples=20)["block"]
    assert found.speedup == pytest.approx(2 ** (2 / 20))
    assert found.speedup_ratio_of_totals == pytest.approx(1.0, abs=0.001)


def test_prefill_in_one_figure_only_makes_a_speedup():
    """Timed as a whole, a baseline with its prefill loses to an equal method without."""
    rows = [row("ar", f"q{i}", prefill_seconds=5.0) for i in range(6)]
    rows += [row("block", f"q{i}", prefill_seconds=5.0) for i in range(6)]
    ar, block = rows[0], rows[6]
    assert (ar.prefill_seconds + ar.decode_seconds) / block.decode_seconds == 1.5  # the naive one
    found = by_method(rows)["block"]
    assert (found.speedup, found.speedup_end_to_end) == (1.0, 1.0)


def test_repeats_of_a_noisy_prompt_count_by_their_median():
    """One pause of the machine in a repeat would double a mean; the median does not see it."""
    rows = [row("ar", f"q{i}", 1.0, repeat=r) for i in range(6) for r in range(3)]
    calm = [row("block", f"q{i}", 0.5, repeat=r) for i in range(6) for r in range(3)]
    paused = [
        replace(each, decode_seconds=100.0) if each.sample == "q1" and each.repeat == 1 else each
        for each in calm
    ]
    assert by_method([*rows, *paused])["block"].speedup == pytest.approx(2.0)
