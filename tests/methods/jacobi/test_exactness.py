"""Jacobi decoding equals the library's own greedy decoding, token for token."""

import itertools

import pytest
from greedy_decoding import LIMIT, decode, expected_tokens, share
from random_models import VOCABULARY, tiny_model

from cllm_bench.engine.session import Session
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder

JACOBI = list(
    itertools.product((2, 8, 16, 64), ("block", "sliding"), ("prompt", "vocab", "pad", "last"))
)


def jacobi(model, size, refill, guess):
    settings = Jacobi(block_size=size, refill=refill, guess=guess)
    return JacobiDecoder(settings, Session(model), VOCABULARY, pad_id=0)


@pytest.fixture(scope="module")
def expected(greedy):
    return [tokens[:LIMIT] for tokens in greedy]


@pytest.mark.parametrize(("size", "refill", "guess"), JACOBI)
def test_jacobi(model, prompts, expected, size, refill, guess):
    decoder = jacobi(model, size, refill, guess)
    case = JACOBI.index((size, refill, guess))
    for prompt, tokens in share(case + case // 4, 6, prompts, expected):
        found = decode(decoder, prompt)
        assert found.token_ids == tokens
        assert len(found.accept_lengths) <= LIMIT - 1  # never more passes than autoregressive


@pytest.mark.parametrize("refill", ["block", "sliding"])
def test_stop_token_inside_a_block(model, prompts, expected, refill):
    """Each prompt stops at a token of its own output, another place in the block each time."""
    decoder = jacobi(model, 8, refill, "prompt")
    plain = AutoregressiveDecoder(Session(model))
    start = refill == "sliding"
    for index, (prompt, tokens) in enumerate(share(start, 2, prompts, expected)):
        stop = tokens[(2 * index + start) % 20]
        wanted = tokens[: tokens.index(stop) + 1]
        for each in (decoder, plain):
            found = decode(each, prompt, stop_ids={stop})
            assert found.token_ids == wanted
            assert found.finish == "stop"


@pytest.mark.parametrize("refill", ["block", "sliding"])
@pytest.mark.parametrize("limit", [1, 2, 7, 8, 9, 16, 17])
def test_limit_inside_a_block(model, prompts, expected, refill, limit):
    decoder = jacobi(model, 8, refill, "last")
    for prompt, tokens in share(limit + (refill == "sliding"), 5, prompts, expected):
        found = decode(decoder, prompt, limit=limit)
        assert found.token_ids == tokens[:limit]
        assert found.finish == "length"


@pytest.mark.parametrize("refill", ["block", "sliding"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_window_does_not_reach_past_the_last_position(prompts, kind, refill):
    """The limit uses every position that the model has, and a block would need more."""
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    small = tiny_model(kind, **{length: 32})
    prompt = prompts[8]
    limit = 32 - len(prompt) + 1  # the last token is never fed
    plain = decode(AutoregressiveDecoder(Session(small)), prompt, limit=limit)
    found = decode(jacobi(small, 16, refill, "last"), prompt, limit=limit)
    assert found.token_ids == plain.token_ids == expected_tokens(small, prompt, limit)
    assert len(found.token_ids) == limit


def test_the_same_seed_gives_the_same_passes(llama, prompts):
    first, second = (jacobi(llama, 8, "block", "vocab") for _ in range(2))
    for prompt in prompts:
        one, other = decode(first, prompt), decode(second, prompt)
        assert one.accept_lengths == other.accept_lengths
        assert one.drafted == other.drafted
