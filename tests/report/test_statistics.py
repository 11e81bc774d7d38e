from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cllm_bench.report.statistics import (
    Interval,
    _student,
    bootstrap_interval,
    expected_best,
    geometric_interval,
    geometric_mean,
    is_binary,
    mean_interval,
    median,
    paired_difference,
    relative_spread,
    wilson_interval,
)
from cllm_bench_tasks.humaneval.grading import pass_at_k


def test_the_expected_best_of_some_scores() -> None:
    scores = [3.0, 0.5, 0.5, 2.0, 7.0]
    for k in range(1, 6):
        best = [max(chosen) for chosen in itertools.combinations(scores, k)]
        assert expected_best(scores, k) == pytest.approx(sum(best) / len(best))
    for correct in range(7):
        for k in range(1, 7):
            found = expected_best([1.0] * correct + [0.0] * (6 - correct), k)
            assert found == pass_at_k(6, correct, k)  # to the bit: what is binary stays so
    assert expected_best([0.3], 1) == 0.3
    assert expected_best([1.0] + [0.0] * 3999, 2000) == pytest.approx(0.5)


def test_geometric_mean_and_median() -> None:
    assert geometric_mean([1, 4]) == pytest.approx(2)
    assert geometric_mean([0.5, 2]) == pytest.approx(1)  # twice as slow and twice as fast cancel
    assert median([3, 1, 2]) == 2
    assert geometric_mean([]) is None
    assert median([]) is None


def test_relative_spread() -> None:
    assert relative_spread([1.0, 2.0, 3.0]) == pytest.approx(0.5)
    assert relative_spread([2.0, 2.0]) == 0
    assert relative_spread([2.0]) is None


def test_too_few_samples_have_no_interval() -> None:
    four = [1.0, 1.1, 0.9, 1.2]
    assert bootstrap_interval(four, seed=0) is None
    assert bootstrap_interval([], seed=0) is None
    assert geometric_interval(four, seed=0) is None
    assert wilson_interval(2, 4) is None
    difference = paired_difference([1, 0], [0, 0], seed=0)
    assert difference is not None
    assert difference == (0.5, None)
    assert paired_difference([], [], seed=0) is None
    assert bootstrap_interval([*four, *four], clusters=[1, 1, 2, 2, 3, 3, 4, 4], seed=0) is None


def test_the_seed_decides_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=30).tolist()
    first = bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=1)
    assert first != bootstrap_interval(values, seed=2)
    assert first is not None
    assert first.low < np.mean(values) < first.high


def test_interval_of_a_mean_is_close_to_students(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(10, 2, size=40)
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    found = mean_interval(values.tolist(), seed=0)
    assert found == pytest.approx((low, high), abs=0.05 * (high - low))
    monkeypatch.setattr("cllm_bench.report.statistics._CHUNK", 400)  # many samples go in portions
    assert mean_interval(values.tolist(), seed=0) == pytest.approx(found, abs=0.1)


def test_other_statistics_and_levels() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 50.0, 60.0]

    def share_above_ten(data: np.ndarray, weights: np.ndarray) -> np.ndarray:
        shares: np.ndarray = (weights @ (data > 10)) / weights.sum(axis=1)
        return shares

    wide = bootstrap_interval(values, share_above_ten, seed=0, level=0.95)
    narrow = bootstrap_interval(values, share_above_ten, seed=0, level=0.5)
    assert wide is not None
    assert narrow is not None
    assert 0 <= wide.low <= narrow.low < 1 / 3 < narrow.high <= wide.high <= 1


def test_turns_of_one_conversation_are_no_independent_evidence() -> None:
    single = np.random.default_rng(5).normal(size=40)
    alone = mean_interval(single.tolist(), seed=0)
    doubled = np.repeat(single, 2).tolist()
    together = mean_interval(doubled, clusters=np.repeat(np.arange(40), 2).tolist(), seed=0)
    naive = mean_interval(doubled, seed=0)
    assert alone is not None
    assert together is not None
    assert naive is not None
    assert together == pytest.approx(alone, abs=0.02)
    assert naive.high - naive.low < 0.8 * (together.high - together.low)


def test_students_quantile() -> None:
    for freedom in (4, 7, 19, 239):
        assert _student(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.005)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (120, 240), (1, 5)])
def test_wilson_agrees_with_scipy(successes: int, count: int) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((expected.low, expected.high))


def test_paired_difference_of_binary_scores() -> None:
    ours = [1.0] * 60 + [0.0] * 40
    theirs = [1.0] * 50 + [0.0] * 50
    found = paired_difference(ours, theirs, seed=0)
    assert found is not None
    assert found.interval is not None
    assert found.mean == pytest.approx(0.1)
    assert 0 < found.interval.low < 0.1 < found.interval.high < 0.2  # pairing makes it narrow
    same = paired_difference(theirs, theirs, seed=0)
    assert same is not None
    assert same.interval is not None
    assert same.interval.low == pytest.approx(-same.interval.high)
    assert 0.01 < same.interval.high < 0.05  # agreement on 100 samples is no proof of equality
    with pytest.raises(ValueError, match="shorter"):
        paired_difference(ours, theirs[:-1], seed=0)


def test_paired_difference_scales_with_the_best_score() -> None:
    ours, theirs = [10.0, 0.0, 10.0, 10.0, 0.0, 10.0], [0.0, 0.0, 10.0, 10.0, 0.0, 0.0]
    tens = paired_difference(ours, theirs, seed=0, best=10.0)
    ones = paired_difference([s / 10 for s in ours], [s / 10 for s in theirs], seed=0)
    assert tens is not None
    assert tens.interval is not None
    assert ones is not None
    assert ones.interval is not None
    assert tens.mean == pytest.approx(10 * ones.mean)
    assert tens.interval == pytest.approx(Interval(*(10 * bound for bound in ones.interval)))


def test_paired_difference_of_graded_scores_is_a_bootstrap() -> None:
    theirs = [float(score) for score in range(1, 11)]
    found = paired_difference([score + 0.5 for score in theirs], theirs, seed=0, best=10)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5))
    assert not is_binary(theirs, 10)
    assert is_binary([0, 10, 10.0], 10)


@pytest.mark.parametrize("count", [20, 100])
def test_speedup_intervals_cover(count: int) -> None:
    """Log-ratios are skewed (accept lengths) and have outliers (the machine)."""
    random = np.random.default_rng(count)
    trials, hits = 300, 0
    for trial in range(trials):
        logs = np.log(1 + random.poisson(1.5, count)) + 0.05 * random.standard_t(3, count)
        interval = geometric_interval(np.exp(logs).tolist(), seed=trial)
        assert interval is not None
        hits += interval.low <= math.exp(_TRUE_LOG) <= interval.high
    assert 0.915 <= hits / trials <= 0.985


_TRUE_LOG = math.fsum(stats.poisson.pmf(k, 1.5) * math.log(1 + k) for k in range(60))


@pytest.mark.parametrize(("both", "gain", "loss"), [(0.6, 0.05, 0.05), (0.3, 0.25, 0.1)])
def test_paired_intervals_cover(both: float, gain: float, loss: float) -> None:
    random = np.random.default_rng(7)
    trials, hits = 600, 0
    for _ in range(trials):
        kind = random.choice(4, size=60, p=[both, gain, loss, 1 - both - gain - loss])
        ours, theirs = (kind <= 1).astype(float), ((kind == 0) | (kind == 2)).astype(float)
        found = paired_difference(ours.tolist(), theirs.tolist(), seed=0)
        assert found is not None
        assert found.interval is not None
        hits += found.interval.low <= gain - loss <= found.interval.high
    assert 0.925 <= hits / trials <= 0.99
