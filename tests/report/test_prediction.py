"""Speedups predicted from passes timed alone."""

from dataclasses import replace

import pytest
from synthetic import cell, manifest, row

from cllm_bench.report.prediction import predicted_paces
from cllm_bench.report.summary import summarise
from cllm_bench.results.pass_times import PassTime


def test_predictions_by_hand():
    twice = row("jacobi", "q0", tokens=11, pass_shapes={"4 target": 5, "1 draft": 10})
    unknown = row("jacobi", "q1", pass_shapes={"8 target": 5})
    silent = row("jacobi", "q2")
    paces = predicted_paces(
        {each.sample: [each] for each in (twice, unknown, silent)},
        {"4 target": 0.2, "1 draft": 0.05, "1 target": 0.1},
    )
    assert paces == {"q0": pytest.approx((5 * 0.2 + 10 * 0.05) / 10)}
    used = manifest(cell("ar"), cell("jacobi"))
    times = [PassTime("spider", "1 target", 9, 0.1, 21, 0)]
    times += [replace(times[0], shape="4 target", seconds=0.1)]
    found = summarise(
        used,
        [
            row("ar", "q0", pass_shapes={"1 target": 10}),
            row("jacobi", "q0", pass_shapes={"4 target": 5}),
        ],
        pass_times=times,
    )
    assert [each.predicted_speedup for each in found] == [
        pytest.approx(1.0),
        pytest.approx(2.0),
    ]


def test_what_several_pauses_measured_counts_together():
    used = manifest(cell("ar"), cell("jacobi"))
    one, four = (PassTime("spider", f"{rows} target", 9, 0.1, 3, 0) for rows in (1, 4))
    slow, usual = replace(four, seconds=0.9, repeats=2), replace(four, seconds=0.2, repeats=4)
    found = summarise(
        used,
        [
            row("ar", "q0", pass_shapes={"1 target": 10}),
            row("jacobi", "q0", pass_shapes={"4 target": 5}),
        ],
        pass_times=[one, four, slow, usual],  # of 3, 2 and 4 passes the median is 0.2
    )
    assert found[1].predicted_speedup == pytest.approx(1.0)
