"""Passes counted by shape: their names, and whose weights came before them."""

import pytest

from cllm_bench.engine.passes import PassLog, Shape, parse_shape

SHAPES = [
    Shape("target", 16, False),
    Shape("my role", 13, True),
    Shape("target", 5, False, "draft"),
    Shape("medusa heads", 3, False, "my role"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_come_back_as_they_were(shape):
    assert parse_shape(str(shape)) == shape


def test_a_pass_behind_other_weights_counts_apart():
    log = PassLog()
    log.prefilled("target")
    log.prefilled("draft")
    for role, count in [("draft", 1), ("draft", 1), ("target", 3), ("draft", 2), ("draft", 1)]:
        log.add(role, count, tree=False)
    log.add("target", 3, tree=True)
    assert log.take() == {
        "1 draft": 3,
        "3 target after draft": 1,
        "2 draft after target": 1,
        "3t target after draft": 1,
    }
    log.add("draft", 1, tree=False)
    assert log.take() == {"1 draft": 1}  # another reply
