"""Lookahead decoding: exact, with the n-grams that its rules give."""

import pytest
import torch
from families import SMALL, write_checkpoint, write_family
from greedy_decoding import decode, expected_tokens, half_first
from random_models import tiny_model
from scripted_session import Scripted

from cllm_bench.contracts import Sampling, Source
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import Autoregressive, AutoregressiveDecoder
from cllm_bench_methods.cllm.method import Cllm
from cllm_bench_methods.jacobi.method import Jacobi
from cllm_bench_methods.lookahead.method import Lookahead, LookaheadDecoder
from cllm_bench_tasks.spider.task import Spider

LIMIT = 16
CPU = Runtime("cpu", "float32", threads=1)


# N, W, G, pool_from_prompt
SETTINGS = [(5, 7, 7, True), (2, 3, 2, True), (3, 4, 5, False), (4, 1, 1, False), (7, 2, 3, True)]


def lookahead(model, *settings, seed=0):
    return LookaheadDecoder(Lookahead(*settings, seed=seed), Session(model))


def drawn(decoder, prompt, sampling):
    return generate(
        decoder, prompt, sampling=sampling, max_new_tokens=LIMIT, stop_ids=(), clock=Clock()
    )


@pytest.fixture(scope="module")
def expected(greedy):
    return [tokens[:LIMIT] for tokens in greedy]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_greedy_is_exact(model, prompts, expected, settings):
    decoder = lookahead(model, *settings)
    accepted = 0
    rows = half_first(SETTINGS.index(settings), prompts, expected)
    for count, (prompt, tokens) in enumerate(rows):
        if accepted and count >= len(rows) / 2:
            break
        found = decode(decoder, prompt, limit=LIMIT)
        assert found.token_ids == tokens
        assert max(found.accept_lengths) <= settings[0]
        assert len(found.accept_lengths) == len(decoder.passes)
        accepted += sum(each.accepted for each in decoder.passes)
    assert accepted > 0  # guesses from the pool did stand


def test_stops_and_limits_inside_a_pass(model, prompts, expected):
    decoder = lookahead(model, 3, 6, 6)
    for index, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        stop = tokens[index % LIMIT]
        found = decode(decoder, prompt, limit=LIMIT, stop_ids={stop})
        assert found.token_ids == tokens[: tokens.index(stop) + 1]
        assert found.finish == "stop"
        limit = 1 + index % 9
        assert decode(decoder, prompt, limit=limit).token_ids == tokens[:limit]


def test_draws_are_those_of_autoregressive_sampling(model, prompts):
    plain, decoder = AutoregressiveDecoder(Session(model)), lookahead(model, 3, 5, 4)
    for seed, prompt in enumerate(prompts[::3]):
        sampling = Sampling((0.5, 1.0, 2.0)[seed % 3], (1.0, 0.9)[seed % 2], seed)
        wanted = drawn(plain, prompt, sampling)
        assert drawn(decoder, prompt, sampling).token_ids == wanted.token_ids


@pytest.mark.parametrize("settings", [(3, 4, 3), (5, 7, 7), (2, 40, 9), (20, 30, 1)], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_end_at_the_last_position(prompts, kind, settings):
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    small = tiny_model(kind, **{length: 48})
    decoder = lookahead(small, *settings)
    for prompt in prompts[4:12:3]:
        limit = 48 - len(prompt) + 1  # the last token is never fed
        found = decode(decoder, prompt, limit=limit)
        assert found.token_ids == expected_tokens(small, prompt, limit)
        assert len(found.token_ids) == limit


class Counting(Scripted):
    """A model whose next token is the last one plus one."""

    def forward(self, ids, *, depth, mask):
        return super().forward(ids)


def test_a_guess_that_matches_fully_keeps_its_bonus_token_already_while_filling():
    """The pool has a match from the first pass on: the prompt counts, as the model does."""
    prompt = torch.tensor([*range(1, 60), 0])
    decoder = LookaheadDecoder(Lookahead(ngram=5, pool_from_prompt=True), Counting())
    found = decode(decoder, prompt, limit=21)
    assert found.token_ids == tuple(range(1, 22))
    assert found.accept_lengths == (5, 5, 5, 5)
    assert found.drafted == (4, 4, 4, 4)
    assert decoder.passes[0].rows == 7 + 5 - 2 + 4
    assert decoder.counters()["guess_hit_rate"] == 1


def test_the_best_of_several_guesses_stands():
    decoder = LookaheadDecoder(Lookahead(4, 1, 3), Counting())
    prompt = torch.tensor([1, 2, 3, 9, 1, 2, 3, 4, 1, 2, 9, 9, 0])
    found = decode(decoder, prompt, limit=5)
    assert found.token_ids == (1, 2, 3, 4, 5)
    assert found.accept_lengths == (4,)
    assert found.drafted == (9,)


def test_without_the_prompt_there_are_only_ngrams_of_window_and_reply():
    decoder = LookaheadDecoder(Lookahead(4, 2, 3, pool_from_prompt=False), Counting())
    decode(decoder, torch.tensor([*range(1, 60), 0]), limit=3)
    assert decoder.passes[0].guesses == decoder.passes[1].guesses == 0


def test_an_empty_pool_leaves_one_token_a_pass(llama, prompts):
    found = decode(lookahead(llama, 3, 4, 0), prompts[7], limit=9)
    assert found.accept_lengths == (1,) * 8
    assert set(found.drafted) == {0}


def test_the_same_seed_gives_the_same_passes(llama, prompts):
    def passes(seed):
        decoder = lookahead(llama, 3, 7, 7, False, seed=seed)
        found = []
        for prompt in prompts[::4]:
            decode(decoder, prompt)
            found.append(decoder.passes)
        return found

    assert passes(0) == passes(0) != passes(1)


def test_counters(llama, prompts):
    decoder = lookahead(llama, 3, 4, 2)
    assert decoder.counters() == {}
    found = decode(decoder, prompts[12])
    figures = decoder.counters()
    count = len(found.drafted)
    assert figures["guesses_per_pass"] == sum(found.drafted) / 2 / count
    window = (4 + 1) + 2 * 4 * (count - 1)
    assert figures["rows_per_pass"] * count == pytest.approx(window + sum(found.drafted))
    assert 0 <= figures["guess_hit_rate"] <= 1


@pytest.mark.parametrize(
    ("name", "value", "least"), [("ngram", 1, 2), ("window", 0, 1), ("guesses", -1, 0)]
)
def test_settings_that_are_too_small_are_refused(name, value, least):
    with pytest.raises(UserError, match=f"{name} must be at least {least}, not {value}"):
        Lookahead(**{name: value})


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    write_family(folder)
    write_checkpoint(folder / "cllm", seed=2)
    return find_family(str(folder), roles={"cllm": str(folder / "cllm")}, runtime=CPU)


@pytest.mark.parametrize("seed", [0, 3])
def test_cllm_with_lookahead_is_lookahead_on_its_checkpoint(family, seed):
    own = Cllm(decoding="lookahead", seed=seed).bind(family)
    same = Lookahead(checkpoint="cllm", seed=seed).bind(family)
    assert own.settings == same.settings
    found, wanted = (decode(decoder, torch.arange(5, 25)) for decoder in (own, same))
    assert found.token_ids == wanted.token_ids
    assert own.passes == same.passes
    plain = decode(Autoregressive("cllm").bind(family), torch.arange(5, 25))
    assert found.token_ids == plain.token_ids


@pytest.mark.parametrize(
    "settings", [{"block_size": 8}, {"guess": "pad"}, {"refill": "sliding"}], ids=str
)
def test_cllm_refuses_settings_of_jacobi_beside_lookahead(settings):
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=f"{name}={value} is for decoding=jacobi, not for look"):
        Cllm(decoding="lookahead", **settings)


def test_the_defaults_settle_more_tokens_a_pass_than_jacobi_on_a_trained_model():
    small = find_family(str(SMALL), runtime=CPU)
    samples = Spider().samples(Source()).samples[::50]
    prompts = [torch.tensor(small.tokenizer(sample.prompt).input_ids) for sample in samples]

    def answers(method):
        decoder = method.bind(small)
        found = [decode(decoder, prompt, limit=128, stop_ids=small.stop_ids) for prompt in prompts]
        kept = sum(len(each.token_ids) - 1 for each in found)
        passes = sum(len(each.accept_lengths) for each in found)
        return [each.token_ids for each in found], kept / passes

    wanted, _ = answers(Autoregressive())
    replies, rate = answers(Lookahead())
    assert replies == wanted
    assert rate > 1.5 > 1.2 > answers(Jacobi())[1]
