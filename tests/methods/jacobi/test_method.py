"""Jacobi decoding: its windows and its guesses."""

import pytest
import torch
from greedy_decoding import decode
from random_models import VOCABULARY
from scripted_session import Scripted

from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.jacobi import method as jacobi
from cllm_bench_methods.jacobi.method import Guesses, Jacobi, JacobiDecoder


def test_the_window_shrinks_within_a_block():
    session = Scripted()
    decoder = JacobiDecoder(Jacobi(block_size=4, guess="pad"), session, 100, pad_id=50)
    found = decode(decoder, torch.tensor([0]), limit=9)
    assert found.token_ids == tuple(range(1, 10))
    assert session.rows[:4] == [[1, 50, 50, 50], [2, 51, 51], [3, 52], [4]]
    assert session.rows[4] == [5, 50, 50, 50]
    assert found.drafted[:4] == (3, 2, 1, 0)


def test_the_window_slides():
    session = Scripted()
    decoder = JacobiDecoder(
        Jacobi(block_size=4, refill="sliding", guess="pad"), session, 100, pad_id=1
    )
    decode(decoder, torch.tensor([0]), limit=5)
    # 1 is wrong behind 1; its correction 2 is right behind 2: the refill is the newest prediction.
    assert session.rows[0] == [1, 1, 1, 1]
    assert session.rows[1] == [2, 2, 2, 2]
    assert all(len(rows) == 4 for rows in session.rows)


def test_right_guesses_settle_at_once(monkeypatch):
    monkeypatch.setattr(jacobi, "Guesses", lambda *_: _Right())
    session = Scripted()
    decoder = JacobiDecoder(Jacobi(block_size=4), session, 100, pad_id=0)
    found = decode(decoder, torch.tensor([0]), limit=9)
    assert found.accept_lengths == (4, 4)


class _Right:
    newest = 0

    def settle(self, tokens):
        self.newest = tokens[-1]
        return tokens

    def draw(self, count):
        return [self.newest + 1 + index for index in range(count)]


def test_sliding_needs_no_more_passes_in_total(llama, prompts):
    passes = {}
    for refill in ("block", "sliding"):
        decoder = JacobiDecoder(Jacobi(refill=refill), Session(llama), VOCABULARY, 0)
        passes[refill] = sum(len(decode(decoder, prompt).accept_lengths) for prompt in prompts)
    assert passes["sliding"] <= passes["block"]


def test_the_observer_sees_every_iterate(llama, prompts):
    seen = []
    decoder = JacobiDecoder(
        Jacobi(block_size=8), Session(llama), VOCABULARY, 0, observer=seen.append
    )
    found = decode(decoder, prompts[5])
    assert seen == decoder.iterates
    assert tuple(each.settled for each in seen) == found.accept_lengths
    assert all(each.block[0] == found.token_ids[each.start] for each in seen)


def test_guess_sources():
    prompt = Guesses("prompt", [5, 6], 100, 0, seed=1)
    assert set(prompt.draw(50)) == {5, 6}
    prompt.settle((7,))
    assert set(prompt.draw(50)) == {5, 6, 7}
    assert Guesses("last", [5, 6], 100, 0, 1).draw(2) == [6, 6]
    assert Guesses("pad", [5, 6], 100, 3, 1).draw(2) == [3, 3]
    drawn = Guesses("vocab", [5], 100, 0, 1).draw(500)
    assert len(set(drawn)) > 80
    assert drawn == Guesses("vocab", [5], 100, 0, 1).draw(500)
    assert drawn != Guesses("vocab", [5], 100, 0, 2).draw(500)


def test_a_block_of_one_is_refused():
    with pytest.raises(UserError, match="block_size must be at least 2, not 1"):
        Jacobi(block_size=1)
