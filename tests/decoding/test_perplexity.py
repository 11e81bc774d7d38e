"""Perplexity: which tokens are scored, and the formulas."""

from __future__ import annotations

import math

import pytest

from cllm_bench.contracts import ScoredText
from cllm_bench.decoding.perplexity import Window, token_perplexity, windows, word_perplexity


def plan(tokens, window, stride=None, remainder="drop"):
    text = ScoredText("", window, window if stride is None else stride, remainder)
    return list(windows(text, tokens))


def test_windows_that_do_not_overlap_lose_their_first_token():
    assert plan(10, 4) == [Window(0, 1, 4), Window(4, 5, 8)]
    assert plan(10, 4, remainder="score") == [*plan(10, 4), Window(8, 9, 10)]
    assert plan(9, 4, remainder="score") == plan(9, 4) == plan(8, 4)  # nothing precedes the ninth
    assert plan(12, 4) == plan(12, 4, remainder="score")


def test_windows_that_overlap_score_what_is_new():
    assert plan(10, 4, 2) == [Window(0, 1, 4), Window(2, 4, 6), Window(4, 6, 8), Window(6, 8, 10)]
    assert plan(9, 4, 2)[-1] == Window(4, 6, 8)
    assert plan(9, 4, 2, "score")[-1] == Window(6, 8, 9)
    assert plan(6, 4, 1) == [Window(0, 1, 4), Window(1, 4, 5), Window(2, 5, 6)]


@pytest.mark.parametrize(("window", "stride"), [(2, 1), (5, 3), (7, 7), (7, 1), (8, 5), (30, 4)])
def test_no_token_is_scored_twice_and_only_those_without_context_are_left(window, stride):
    for tokens in range(40):
        found = plan(tokens, window, stride, "score")
        scored = [place for each in found for place in range(each.first, each.end)]
        assert len(set(scored)) == len(scored)
        left = set(range(tokens)) - set(scored)
        assert left == (
            set(range(0, tokens, window)) if stride == window else {0} & {*range(tokens)}
        )
        assert all(0 < each.end - each.begin <= window for each in found)


def test_a_text_shorter_than_a_window():
    assert plan(3, 4) == plan(1, 4, remainder="score") == plan(0, 4, remainder="score") == []
    assert plan(3, 4, remainder="score") == [Window(0, 1, 3)]


def test_formulas():
    assert token_perplexity(3 * math.log(7), 3) == pytest.approx(7)
    assert word_perplexity(3 * math.log(7), 3, 2.0) == pytest.approx(49)
    assert token_perplexity(1e6, 1) is None
