"""Speculative decoding: exact where it says so, and of the target's distribution where it draws."""

import copy
from types import SimpleNamespace

import pytest
import torch
from families import cli, rows
from greedy_decoding import LIMIT, decode, expected_tokens, share
from noisy_families import DRAWN, drawn, noisy, speculative
from random_models import VOCABULARY, tiny_model
from scipy.stats import binomtest, chisquare

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.sampling import probabilities
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.speculative.method import Speculative, SpeculativeDecoder

CASES = [
    ("itself", {"k": 8}),
    ("itself", {"k": 1}),
    ("noisy", {"k": 4}),
    ("noisy", {"k": 8, "adaptive": True}),
    ("poor", {"k": 1}),
]


@pytest.fixture(scope="module")
def expected(greedy):
    return [tokens[:LIMIT] for tokens in greedy]


@pytest.fixture(scope="module")
def drafts(model):
    """Drafts that agree always, often and hardly ever."""
    return {"itself": model, "noisy": noisy(model), "poor": tiny_model("llama", seed=9)}


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_greedy_is_exact(model, drafts, prompts, expected, name, settings):
    decoder = speculative(model, drafts[name], **settings)
    for prompt, tokens in share(CASES.index((name, settings)), 3, prompts, expected):
        found = decode(decoder, prompt, limit=18)
        assert found.token_ids == tokens[:18]
        if name == "itself":
            assert set(found.accept_lengths) == {settings["k"] + 1}
            assert set(found.drafted) == {settings["k"]}


def test_a_better_draft_is_accepted_more(llama, prompts):
    drafts = (llama, noisy(llama), tiny_model("llama", seed=9))
    decoders = [speculative(llama, draft, k=3) for draft in drafts]
    passes = [sum(len(decode(d, p).accept_lengths) for p in prompts[:6]) for d in decoders]
    assert passes[0] < passes[1] < passes[2] <= 6 * (LIMIT - 1)


def test_stops_and_limits_inside_a_pass(model, drafts, prompts, expected):
    decoder = speculative(model, drafts["noisy"])
    for index, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        stop = tokens[index % 20]
        found = decode(decoder, prompt, stop_ids={stop})
        assert found.token_ids == tokens[: tokens.index(stop) + 1]
        assert found.finish == "stop"
        limit = 1 + index % 9
        assert decode(decoder, prompt, limit=limit).token_ids == tokens[:limit]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_guesses_end_at_either_model_s_last_position(prompts, kind):
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    target = tiny_model(kind, **{length: 32})
    prompt = prompts[8]
    limit = 32 - len(prompt) + 1  # the last token is never fed
    tokens = expected_tokens(target, prompt, limit)
    for positions in (4, len(prompt), len(prompt) + 1, 25, 32, 64):
        draft = tiny_model(kind, **{length: positions})
        found = decode(speculative(target, draft, k=6), prompt, limit=limit)
        assert found.token_ids == tokens
        left = min(positions, 31) - len(prompt)
        for settled, drafted in zip(found.accept_lengths, found.drafted, strict=True):
            assert drafted == max(0, min(6, left))
            left -= settled


@pytest.mark.parametrize("name", ["itself", "noisy"])
def test_coupled_draws_are_those_of_autoregressive_sampling(model, drafts, prompts, name):
    plain = AutoregressiveDecoder(Session(model))
    decoder = speculative(model, drafts[name], acceptance="coupled")
    for seed, prompt in enumerate(prompts[2 * (name == "noisy") :: 4]):
        sampling = Sampling((0.5, 1.0, 2.0)[seed % 3], (1.0, 0.9)[seed % 2], seed)
        found = drawn(decoder, prompt, 20, sampling)
        assert found.token_ids == drawn(plain, prompt, 20, sampling).token_ids
        if name == "itself":
            assert set(found.accept_lengths) == {5}


def test_rejection_accepts_everything_from_the_target_itself(model, prompts):
    decoder = speculative(model, model, k=3)
    for seed, prompt in enumerate(prompts[::2]):
        found = drawn(decoder, prompt, sampling=Sampling(1.3, 0.9, seed))
        assert set(found.accept_lengths) == {4}


class Chain:
    """A model whose next token depends on the last one only, in the place of a session."""

    def __init__(self, seed, spread):
        generator = torch.Generator().manual_seed(seed)
        self.table = spread * torch.randn(5, 5, generator=generator)
        self.device = torch.device("cpu")
        self.room = 1 << 30
        self.length = 0
        self._rows = 0

    def prefill(self, ids):
        self.length = ids.numel()
        return SimpleNamespace(logits=self.table[ids[-1:]])

    def forward(self, ids):
        self._rows = ids.numel()
        return SimpleNamespace(logits=self.table[ids])

    def upload(self, numbers):
        return torch.tensor(numbers)

    def keep(self, rows):
        assert rows <= self._rows
        self.length += rows
        self._rows = 0


def chained(seed, sampling, k, length):
    """Draw a long reply; return the models, the reply behind the prompt's token, and the passes."""
    target, draft = Chain(seed, 1.5), Chain(seed + 100, 1.0)
    decoder = SpeculativeDecoder(Speculative(k=k), target, draft, 5, 0)
    found = drawn(decoder, torch.tensor([0]), length, sampling)
    return target, draft, [0, *found.token_ids], found


@pytest.mark.parametrize(("seed", "top_p"), [(1, 1.0), (2, 1.0), (3, 0.8)])
@pytest.mark.parametrize("k", [1, 4])
def test_rejection_keeps_the_target_s_distribution(seed, top_p, k):
    """Behind each token the next one is drawn independently: counts are multinomial."""
    sampling = Sampling(1.2, top_p, seed)
    target, _, tokens, _ = chained(seed, sampling, k, 4000)
    expected = probabilities(target.table, sampling).double()
    pairs = torch.tensor(tokens[:-1]) * 5 + torch.tensor(tokens[1:])
    counts = torch.bincount(pairs, minlength=25).reshape(5, 5).double()
    assert counts[expected == 0].sum() == 0
    wanted = expected / expected.sum(1, keepdim=True) * counts.sum(1, keepdim=True)
    often = wanted >= 5
    assert often.sum() > 12
    cells, hoped = (
        torch.cat([each[often], each[~often & (expected > 0)].sum()[None]])
        for each in (counts, wanted)
    )
    kept = hoped > 0
    # The expected counts of a row add up to the row's own, hence four degrees fewer.
    assert chisquare(cells[kept].numpy(), hoped[kept].numpy(), ddof=4).pvalue > 1e-3


def test_rejection_keeps_as_many_guesses_as_the_distributions_share():
    sampling = Sampling(1.0, 1.0, 4)
    target, draft, tokens, found = chained(4, sampling, 1, 4000)
    p, q = (probabilities(each.table, sampling) for each in (target, draft))
    shared = torch.minimum(p, q).sum(-1)
    ends = torch.tensor([0, *found.accept_lengths]).cumsum(0)
    states = [tokens[1 + int(end)] for end in ends[:-1]]
    accepted = sum(length == 2 for length in found.accept_lengths)
    mean = float(shared[states].mean())
    assert 0.2 < mean < 0.8
    assert binomtest(accepted, len(states), mean).pvalue > 1e-3


def test_the_same_seed_draws_the_same(llama, prompts):
    decoder = speculative(llama, noisy(llama))
    first, again = (drawn(decoder, prompts[5]) for _ in range(2))
    assert again.token_ids == first.token_ids
    assert again.accept_lengths == first.accept_lengths
    other = drawn(decoder, prompts[5], sampling=Sampling(0.9, 0.95, 6))
    assert other.token_ids != first.token_ids


def test_the_adaptive_draft_follows_what_was_accepted_and_begins_anew(llama, prompts):
    decoder = speculative(llama, noisy(llama), k=6, adaptive=True)
    for prompt in prompts:
        found = decode(decoder, prompt)
        assert found.drafted[0] == 6
        for length, following in zip(found.accept_lengths, found.drafted[1:], strict=False):
            assert following == min(6, length)
    assert len(set(found.drafted)) > 1


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
def test_a_draft_with_padded_embeddings(llama, prompts, sampling):
    """More ids than the target has: none of them is ever drafted."""
    draft = copy.deepcopy(llama)
    draft.resize_token_embeddings(VOCABULARY + 9, mean_resizing=False)
    with torch.no_grad():
        draft.lm_head.weight[VOCABULARY:] = 5 * draft.lm_head.weight[:9]
    decoder = speculative(llama, draft, k=3)
    for prompt in prompts[:6]:
        found = drawn(decoder, prompt, sampling=sampling)
        assert set(found.accept_lengths) == {4}
        assert max(found.token_ids) < VOCABULARY


def test_declarations():
    assert Speculative().exactness == "exact"
    assert Speculative().sampled == "distribution"
    assert Speculative(acceptance="coupled").sampled == "exact"
    assert Speculative(draft="small").extra_roles == ("small",)
    with pytest.raises(UserError, match="k must be at least 1, not 0"):
        Speculative(k=0)


def test_a_missing_draft_is_named(tiny):
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1))
    with pytest.raises(UserError, match="has no 'draft' checkpoint"):
        Speculative().bind(family)


def test_as_a_run(monkeypatch, tmp_path, command):
    out = tmp_path / "out"
    arguments = ["--method", "speculative:draft=other,k=2", "--data", tmp_path, "--repeats", 1]
    assert cli(monkeypatch, *command, *arguments, "--output", out) == 0
    found = [row for row in rows(out) if row["method"].startswith("speculative")]
    assert len(found) == 8
    assert all(row["verdict"] == "exact" for row in found)
    assert all(set(row["drafted"]) <= {2} for row in found)
