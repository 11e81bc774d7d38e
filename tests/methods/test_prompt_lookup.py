"""Prompt lookup: exact, and its index finds what a search from the start would."""

import random

import pytest
import torch
from greedy_decoding import decode, expected_tokens, half_first
from random_models import tiny_model
from scripted_session import Scripted

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.prompt_lookup import PromptLookup, PromptLookupDecoder, Text

LIMIT = 16
SETTINGS = [
    {},
    {"ngram": 1, "k": 1},
    {"ngram": 2, "k": 3},
    {"ngram": 2, "min_ngram": 2, "k": 4},
    {"ngram": 6, "k": 20},
]


def lookup(model, **settings):
    return PromptLookupDecoder(PromptLookup(**settings), Session(model))


@pytest.fixture(scope="module")
def expected(greedy):
    return [tokens[:LIMIT] for tokens in greedy]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_greedy_is_exact(model, prompts, expected, settings):
    decoder = lookup(model, **settings)
    saved = 0
    rows = half_first(SETTINGS.index(settings), prompts, expected)
    for count, (prompt, tokens) in enumerate(rows):
        if saved and count >= len(rows) / 2:
            break
        found = decode(decoder, prompt, limit=LIMIT)
        assert found.token_ids == tokens
        assert max(found.drafted) <= decoder.settings.k
        saved += LIMIT - 1 - len(found.accept_lengths)
    assert saved > 0


def test_stops_and_limits_inside_a_pass(model, prompts, expected):
    decoder = lookup(model, k=5)
    for index, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        stop = tokens[index % LIMIT]
        found = decode(decoder, prompt, limit=LIMIT, stop_ids={stop})
        assert found.token_ids == tokens[: tokens.index(stop) + 1]
        assert found.finish == "stop"
        limit = 1 + index % 9
        assert decode(decoder, prompt, limit=limit).token_ids == tokens[:limit]


def test_draws_are_those_of_autoregressive_sampling(model, prompts):
    plain, decoder = AutoregressiveDecoder(Session(model)), lookup(model, k=4)
    for seed, prompt in enumerate(prompts[::3]):
        sampling = Sampling((0.5, 1.0, 2.0)[seed % 3], (1.0, 0.9)[seed % 2], seed)
        found, wanted = (
            generate(
                each, prompt, sampling=sampling, max_new_tokens=LIMIT, stop_ids=(), clock=Clock()
            )
            for each in (decoder, plain)
        )
        assert found.token_ids == wanted.token_ids


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_guesses_end_at_the_last_position(prompts, kind):
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    small = tiny_model(kind, **{length: 48})
    decoder = lookup(small)
    for prompt in prompts[4:12]:
        limit = 48 - len(prompt) + 1  # the last token is never fed
        found = decode(decoder, prompt, limit=limit)
        assert found.token_ids == expected_tokens(small, prompt, limit)
        assert len(found.token_ids) == limit


def test_accepted_guesses_and_a_bonus_token():
    """The model counts, and so does the prompt."""
    session = Scripted()
    decoder = PromptLookupDecoder(PromptLookup(k=4), session)
    found = decode(decoder, torch.tensor([*range(1, 30), 0]), limit=11)
    assert found.token_ids == tuple(range(1, 12))
    assert session.rows == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert found.accept_lengths == (5, 5)
    assert found.drafted == (4, 4)


def test_nothing_is_guessed_where_nothing_matches():
    session = Scripted()
    found = decode(PromptLookupDecoder(PromptLookup(), session), torch.tensor([0]), limit=4)
    assert session.rows == [[1], [2], [3]]
    assert found.drafted == (0, 0, 0)


def search(tokens, shortest, longest, count):
    """Scan the whole text for the latest earlier match of its end."""
    for length in range(min(longest, len(tokens)), shortest - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                guesses = list(tokens)
                for ahead in range(count):  # a short one is repeated
                    guesses.append(guesses[end + ahead])
                return length, guesses[len(tokens) :]
    return 0, []


@pytest.mark.parametrize("shortest_longest", [(1, 1), (1, 3), (2, 5), (4, 4)], ids=str)
def test_the_index_finds_what_a_search_finds(shortest_longest):
    draw = random.Random(3)
    for alphabet in (1, 2, 4, 9):
        text, tokens = Text(*shortest_longest), []
        for _ in range(60):
            piece = draw.choices(range(alphabet), k=draw.choice((1, 1, 2, 5)))
            text.extend(piece)
            tokens += piece
            count = draw.randrange(8)
            assert text.guess(count) == search(tokens, *shortest_longest, count)


def test_the_longest_match_goes_first_and_the_latest_of_equals():
    text = Text(1, 3)
    text.extend([1, 2, 3, 7, 8, 9, 3, 5, 2, 3, 6, 6, 1, 2, 3])
    assert text.guess(2) == (3, [7, 8])
    text.extend([2, 3])
    assert text.guess(2) == (2, [2, 3])
    text.extend([4, 3])
    assert text.guess(2) == (1, [4, 3])


def test_counters():
    decoder = PromptLookupDecoder(PromptLookup(), Scripted())
    assert decoder.counters() == {}
    decode(decoder, torch.tensor([1, 2, 3, 8, 0]), limit=5)
    # 1 matches, and gives 2 and 3; then 4 and 5 are new
    assert decoder.matches == [1, 0]
    assert decoder.counters() == {"match_rate": 0.5, "match_length": 1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1, not 0"),
        ({"min_ngram": 0}, "min_ngram must be at least 1, not 0"),
        ({"ngram": 2, "min_ngram": 3}, "ngram must be at least min_ngram, 3, not 2"),
        ({"ngram": 0}, "ngram must be at least min_ngram, 1, not 0"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PromptLookup(**settings)
