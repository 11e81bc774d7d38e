"""Lookahead's window: its rows see what the rules say, and it moves on a level a pass."""

import itertools

import torch
from random_models import VOCABULARY

from cllm_bench.engine.session import Session
from cllm_bench_methods.lookahead.method import Branches, Lookahead
from cllm_bench_methods.lookahead.window import Window, layout


def test_the_window_gives_way_to_guesses_and_both_to_the_newest_token():
    branches = Branches(Lookahead(3, 4, 2), [1, 2, 3, 1, 4, 5])
    assert len(branches.rows(1, 9).window) == 5
    for room, guesses in ((8, 2), (5, 2), (4, 1), (3, 1), (2, 0), (1, 0)):
        rows = branches.rows(1, room)
        assert rows.window == [1]
        assert rows.levels == 1
        assert rows.guesses == [(4, 5), (2, 3)][:guesses]


def slow_layout(columns, levels, guesses, length):
    """The rules, row by row and literally; p is 0."""
    rows = [("base", 0, column) for column in range(columns)]  # last, then L0
    rows += [("window", each, i) for each in range(1, levels) for i in range(columns)]
    rows += [("guess", each, i) for each in range(guesses) for i in range(length)]

    def sees(row, other):
        (kind, level, i), (other_kind, other_level, other_i) = row, other
        if kind == "base":
            return other_kind == "base" and other_i <= i
        if kind == "window":
            if other_kind == "base":
                return other_i in range(i + 1)
            return other_kind == "window" and other_i == i and other_level in range(1, level + 1)
        if other_kind == "guess":
            return other_level == level and other_i <= i
        return other == ("base", 0, 0)

    def position(kind, level, i):
        return {"base": i, "window": level + i, "guess": 1 + i}[kind]

    return [position(*row) for row in rows], [[sees(row, other) for other in rows] for row in rows]


def test_layout_follows_the_rules():
    for shape in itertools.product((1, 2, 7), (1, 2, 4), (0, 1, 3), (1, 4)):
        depth, mask = slow_layout(*shape)
        found = layout(*shape, torch.device("cpu"))
        assert found.depth.tolist() == depth
        assert found.mask.tolist() == mask


def test_every_row_is_predicted_from_the_tokens_it_sees(model, prompts):
    """Each row's logits are those of the plain sequence: prefix, its ancestors, itself."""
    generator = torch.Generator().manual_seed(1)
    shape = layout(3, 3, 2, 3, torch.device("cpu"))
    ids = torch.randint(0, VOCABULARY, shape.depth.shape, generator=generator)
    session, plain = Session(model), Session(model)
    session.prefill(prompts[9])
    logits = session.forward(ids, depth=shape.depth, mask=shape.mask).logits
    for row, seen in enumerate(shape.mask):
        own = ids[seen]
        assert len(own) == shape.depth[row] + 1
        wanted = plain.prefill(torch.cat([prompts[9], own])).logits[0]
        torch.testing.assert_close(logits[row], wanted, rtol=1e-3, atol=1e-4)


def test_the_window_fills_a_level_a_pass_and_moves_on():
    """As drawn beside the class: W = 3, N = 4; a row's number says level and place."""
    window = Window(4, 3, [7], seed=0)
    assert window.rows(10) == [10, 7, 7, 7, 7]
    assert window.advance([21, 22, 23, 24, 25]) == []
    assert window.rows(11) == [11, 7, 7, 7, 22, 23, 24, 25]
    assert window.advance([0] * 4 + [32, 33, 34, 35]) == []
    assert window.rows(12) == [12, 7, 7, 23, 24, 25, 33, 34, 35]
    grams = window.advance([0] * 6 + [43, 44, 45])
    assert grams == [(12, 23, 33, 43), (7, 24, 34, 44), (7, 25, 35, 45)]
    assert window.rows(13) == [13, 24, 25, 33, 34, 35, 43, 44, 45]
    grams = window.advance([0] * 6 + [54, 55, 56])
    assert grams == [(13, 33, 43, 54), (24, 34, 44, 55), (25, 35, 45, 56)]
    assert (window.levels, window.size) == (3, 9)


def test_a_window_of_bigrams_has_one_level():
    window = Window(2, 3, [7], seed=0)
    assert window.rows(1) == [1, 7, 7]
    assert window.advance([2, 8, 9]) == [(1, 2), (7, 8), (7, 9)]
    assert window.rows(2) == [2, 8, 9]


def test_the_window_starts_with_tokens_of_the_prompt():
    prompt = [3, 5, 9]
    first = Window(5, 40, prompt, seed=1).rows(0)
    assert len(first) == 40 + 5 - 2
    assert set(first[1:]) == set(prompt)
    assert first == Window(5, 40, prompt, seed=1).rows(0)
    assert first != Window(5, 40, prompt, seed=2).rows(0)
