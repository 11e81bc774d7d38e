"""Decoding along a known answer, which settles whole passes and changes no token."""

from collections_of import LIMIT
from greedy_decoding import decode, expected_tokens
from random_models import VOCABULARY

from cllm_bench.engine.session import Session
from cllm_bench_methods.trajectories.known_answer import WIDEST, ReferenceDecoder


def test_a_right_reference_settles_whole_passes(llama, prompts):
    for prompt in prompts[::4]:
        tokens = expected_tokens(llama, prompt, WIDEST + LIMIT)
        found = decode(ReferenceDecoder(Session(llama), tokens), prompt, limit=WIDEST + 2)
        assert found.token_ids == tokens[: WIDEST + 2]
        assert found.accept_lengths == (WIDEST + 1,)


def test_a_reference_that_ends_or_errs_changes_no_token(llama, prompts):
    for prompt in prompts[::3]:
        tokens = expected_tokens(llama, prompt, LIMIT)
        for known in ((), tokens[:1], tokens[:11], tokens[1:], (*tokens[:9], 1, *tokens[9:])):
            found = decode(ReferenceDecoder(Session(llama), known), prompt)
            assert found.token_ids == tokens
            assert len(found.accept_lengths) < LIMIT


def test_a_pass_guesses_twice_as_much_as_settled_before(llama, prompts):
    tokens = expected_tokens(llama, prompts[0], 40)
    wrong = [(token + 1) % VOCABULARY for token in tokens[:10]]
    found = decode(ReferenceDecoder(Session(llama), (*wrong, *tokens[10:])), prompts[0], limit=40)
    assert found.token_ids == tokens
    assert found.drafted[:10] == (39, *[2] * 9)
    for settled, drafted in zip(found.accept_lengths[9:-1], found.drafted[10:-1], strict=False):
        assert drafted == 2 * settled
