"""The figures of an ablation."""

import json

import pytest

from cllm_bench.ablation.report import TrainingFigures, ratio_of_totals, training_figures


def test_ratios_of_totals_are_paired():
    base = {f"q{i}": (10 + i, 10) for i in range(20)}
    ours = {name: (2 * kept, passes) for name, (kept, passes) in base.items()}
    value, interval = ratio_of_totals(base, None, 0)
    assert value == pytest.approx(1.95)
    assert interval.low < 1.95 < interval.high
    ratio, paired = ratio_of_totals(ours | {"only ours": (99, 1)}, base, 0)
    assert ratio == pytest.approx(2.0)
    assert tuple(paired) == pytest.approx((2.0, 2.0))
    assert ratio_of_totals({}, base, 0) == (None, None)


def test_training_figures_leave_pauses_out(tmp_path):
    absent = TrainingFigures(steps=None, seconds=None, questions=0)
    assert training_figures(tmp_path, {}) == absent
    times = [100.0, 110.0, 500.0, 510.0, 520.0]
    lines = [{"step": 20 * i, "time": time} for i, time in enumerate(times, 1)]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "training_log.jsonl").write_text(text, encoding="utf-8")
    assert training_figures(tmp_path, {}) == TrainingFigures(steps=100, seconds=50.0, questions=0)
