"""The plan of a run: equal methods stay equal on a machine that slows down."""

import statistics

import pytest
from synthetic import cell, manifest, row

from cllm_bench.contracts import Sampling
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.plan import RunPlan, TaskPlan
from cllm_bench.report.summary import summarise


def by_method(rows, **changes):
    used = manifest(cell("ar"), cell("block"), **changes)
    return {each.method: each for each in summarise(used, rows)}


class Asked:
    """A task that the plan only needs to name."""


def test_a_machine_that_slows_down_favours_nobody():
    """Two equal methods on a machine that is twice as slow at the end as at the beginning."""
    samples = [type("Sample", (), {"id": f"q{i}"})() for i in range(40)]
    cells = tuple(
        MethodSpec(name, name, method=None, baseline="ar", exactness="exact")
        for name in ("ar", "block", "third")
    )
    task = TaskPlan("spider", Asked(), None, tuple(samples))
    plan = RunPlan(None, cells, (task,), repeats=3, seed=0, sampling=Sampling())
    total = 3 * 3 * len(samples)

    def pace(place):
        return 1 + place / total

    blocks = [cell.label for cell in cells for _ in range(3 * len(samples))]
    means = {
        name: statistics.mean(pace(i) for i, label in enumerate(blocks) if label == name)
        for name in ("ar", "block")
    }
    assert means["block"] / means["ar"] == pytest.approx(1.29, abs=0.01)  # the naive figure
    rows, place = [], 0
    for round_ in plan.rounds():
        for asked in round_.specs:
            changes = {"repeat": round_.repeat, "key": f"{place}"}
            rows.append(row(asked.label, round_.sample.id, pace(place), **changes))
            place += 1
    assert place == total
    found = by_method([each for each in rows if each.method != "third"], samples=40)
    assert found["block"].speedup == pytest.approx(1.0, abs=0.002)
    low, high = found["block"].speedup_ci
    assert low < 1 < high
