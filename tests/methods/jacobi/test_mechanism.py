"""The mechanism's counters, by hand."""

import pytest

from cllm_bench_methods.jacobi.mechanism import Iterate, mechanism


def test_mechanism_of_one_block_by_hand():
    """Output 10 11 12 13 14; the block is 10 and three guesses.

    state 0 (guesses)   90 12 91     right until index 1; the 12 is right behind a wrong token
    state 1             11 12 92     grows by two: 11 is new, and 12 had been stationary
    state 2             .. .. 13     grows by one
    """
    iterates = [
        Iterate(0, (10, 90, 12, 91), (11, 12, 92, 93), 1),
        Iterate(1, (11, 12, 92), (12, 13, 94), 2),
        Iterate(3, (13,), (14,), 1),
    ]
    figures = mechanism(iterates, block_size=4)
    assert figures["fast_forwarded_per_iteration"] == 1.5
    assert figures["stationary_per_block"] == pytest.approx(1 / (5 / 4))


def test_a_token_that_changes_again_is_not_stationary():
    iterates = [
        Iterate(0, (10, 90, 91, 13), (11, 92, 93, 94), 1),
        Iterate(1, (11, 92, 93), (12, 95, 96), 1),
        Iterate(2, (12, 95), (13, 96), 1),
        Iterate(3, (13,), (14,), 1),
    ]
    assert mechanism(iterates, block_size=4)["stationary_per_block"] == 0.0


def test_mechanism_of_nothing():
    assert mechanism([], block_size=4) == {}
