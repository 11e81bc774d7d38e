"""Ratings in the answers of judges."""

from __future__ import annotations

import pytest

from cllm_bench.judge.protocol import rating


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[7.]]", 7.0),
        ("[[10]] and [[3]]", 10.0),
        ("first [4], but Rating: [[6]]", 6.0),
        ("Rating: [6]", 6.0),
        ("[[1]]", 1.0),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[11]] or rather [[5]]", None),
        ("[[-3]]", None),
        ("[[7/10]]", None),
        ("[[rating]]", None),
        ("Rating: 7", None),
        ("[[ 7 ]]", None),
        ("[[1e1]]", None),
        ("[[" + "9" * 5000 + "]]", None),
        ("", None),
    ],
)
def test_ratings(text, expected):
    assert rating(text, 10.0) == expected
