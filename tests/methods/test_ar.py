"""Autoregressive decoding equals the library's own greedy decoding, token for token."""

import pytest
from greedy_decoding import LIMIT, decode

from cllm_bench.engine.session import Session
from cllm_bench_methods.ar import AutoregressiveDecoder


@pytest.fixture(scope="module")
def expected(greedy):
    return [tokens[:LIMIT] for tokens in greedy]


def test_there_are_enough_varied_prompts(expected, prompts):
    assert len(prompts) >= 20
    assert len({tokens for output in expected for tokens in output}) > 10


def test_autoregressive(model, prompts, expected):
    decoder = AutoregressiveDecoder(Session(model))
    for prompt, tokens in zip(prompts, expected, strict=True):
        found = decode(decoder, prompt)
        assert found.token_ids == tokens
        assert found.accept_lengths == (1,) * (LIMIT - 1)
        assert found.finish == "length"
