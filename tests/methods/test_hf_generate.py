"""transformers' own loops as rows: the same replies, counted and timed like everybody's."""

import copy
import json
from pathlib import Path

import pytest
import torch
from families import cli, rows, write_checkpoint
from greedy_decoding import decode, share
from noisy_families import drawn, noisy
from random_models import tiny_model
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, CompileConfig, GenerationConfig

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.decoding.sampling import probabilities
from cllm_bench.engine import loading
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench.measurement import executor
from cllm_bench_methods.ar import Autoregressive, AutoregressiveDecoder
from cllm_bench_methods.hf_generate import HfAssisted, HfDecoder, HfGenerate

LIMIT = 12
LEFTOVERS = {
    "do_sample": True,
    "temperature": 3.0,
    "top_k": 2,
    "top_p": 0.3,
    "min_p": 0.2,
    "repetition_penalty": 4.0,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 12,
    "suppress_tokens": [7],
    "num_assistant_tokens": 9,
    "assistant_confidence_threshold": 0.9,
    "num_assistant_tokens_schedule": "heuristic",
    "max_length": 19,
}


def family_of(roles):
    checkpoints = {role: Checkpoint(str(folder)) for role, folder in roles.items()}
    return ModelFamily(FamilyDescription("tiny", checkpoints), Runtime("cpu", "float32", threads=1))


def write_noisy(source, folder):
    noisy(AutoModelForCausalLM.from_pretrained(source)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2", "gpt-neox"])
def family(request, tmp_path_factory):
    """A target, drafts that agree with it often and hardly ever; settings that must not count."""
    folder = tmp_path_factory.mktemp(request.param)
    target = write_checkpoint(folder / "target", request.param)
    draft = write_noisy(target, folder / "draft")
    poor = write_checkpoint(folder / "poor", request.param, seed=3)
    for each in (target, draft, poor):
        file = each / "generation_config.json"
        own = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(own | LEFTOVERS), encoding="utf-8")
    return family_of({"target": target, "draft": draft, "poor": poor})


@pytest.fixture(scope="module")
def expected(family, prompts):
    decoder = Autoregressive().bind(family)
    return [decode(decoder, prompt, LIMIT).token_ids for prompt in prompts]


def test_generate_is_exact_one_token_a_pass(family, prompts, expected):
    decoder = HfGenerate().bind(family)
    for prompt, tokens in share(0, 2, prompts, expected):
        found = decode(decoder, prompt, LIMIT)
        assert found.token_ids == tokens
        assert found.accept_lengths == (1,) * (LIMIT - 1)
        assert set(found.drafted) == {0}
        assert found.finish == "length"


def test_a_static_cache_gives_the_same_tokens(family, prompts, expected):
    """Prompts of any order, so that the cache grows; and limits beneath what it holds."""
    decoder = HfGenerate(cache="static").bind(family)
    for index, (prompt, tokens) in enumerate(share(1, 2, prompts, expected)):
        limit = LIMIT - index % 3
        found = decode(decoder, prompt, limit)
        assert found.token_ids == tokens[:limit]
        assert found.accept_lengths == (1,) * (limit - 1)
        assert found.finish == "length"


def test_a_static_cache_is_compiled_once(prompts, monkeypatch):
    """The library compiles on no CPU unless it is told to; here each compilation is counted."""
    compiled = []

    def count(module, _inputs, **_):
        compiled.append(module)
        return module.forward

    config = CompileConfig(backend=count, mode=None)
    config._compile_all_devices = True
    settings = HfDecoder._settings

    def compiling(self, *asked):
        found = settings(self, *asked)
        found.compile_config = config
        return found

    monkeypatch.setattr(HfDecoder, "_settings", compiling)
    model = tiny_model("llama")
    model.generation_config = GenerationConfig()
    replies = [decode(AutoregressiveDecoder(Session(model)), each, LIMIT) for each in prompts[-4:]]
    first = HfDecoder(model, cache="static")
    begun = generate(  # the longest one, as a run begins every reply before it is timed
        first,
        max(prompts, key=len),
        sampling=Sampling(),
        max_new_tokens=LIMIT,
        stop_ids=(),
        clock=Clock(),
        ends=lambda reply: len(reply) == 2,
    )
    assert len(begun.token_ids) == 2
    before = len(compiled)
    assert before > 0
    for decoder in (first, HfDecoder(model, cache="static")):  # bound anew
        for prompt, reply in zip(prompts[-4:], replies, strict=True):
            assert decode(decoder, prompt, LIMIT).token_ids == reply.token_ids
    assert len(compiled) == before


def test_rows_share_weights_and_nothing_else(family, prompts, expected):
    """Bound and run in any order, rows of the library leave nothing behind for others."""
    shared = family.plain_model("target")
    before = dict(vars(shared)), shared.generation_config.to_dict()
    decoders = [
        HfAssisted(k=3, draft="target").bind(family),
        HfAssisted(k=1, draft="target").bind(family),
        HfGenerate().bind(family),
    ]
    for prompt, tokens in list(zip(prompts, expected, strict=True))[:3]:
        three, one, plain = (decode(decoder, prompt, LIMIT) for decoder in decoders)
        assert three.token_ids == one.token_ids == plain.token_ids == tokens
        assert max(three.drafted) == 3
        assert max(one.drafted) == 1
        assert max(plain.drafted) == 0
    assert (dict(vars(shared)), shared.generation_config.to_dict()) == before
    assert not shared._forward_pre_hooks


@pytest.mark.parametrize(("draft", "k"), [("target", 4), ("draft", 3), ("poor", 1)])
def test_assisted_is_exact_at_a_fixed_k(family, prompts, expected, draft, k):
    decoder = HfAssisted(k=k, draft=draft).bind(family)
    assert decoder.extra_parameters == family.parameters(draft)
    passes = 0
    shared = list(share(k, 2, prompts, expected))
    for prompt, tokens in shared:
        found = decode(decoder, prompt, LIMIT)
        assert found.token_ids == tokens
        passes += len(found.accept_lengths)
        left = sum(found.accept_lengths)
        for length, drafted in zip(found.accept_lengths, found.drafted, strict=True):
            assert drafted == min(k, left - 1)  # none is drafted past the limit
            assert length == drafted + 1 or draft != "target"
            left -= length
    assert passes <= len(shared) * (LIMIT - 1)


def test_stop_tokens_inside_a_pass(family, prompts, expected):
    decoders = HfGenerate().bind(family), HfAssisted(draft="target").bind(family)
    for number, decoder in enumerate(decoders):
        for index, (prompt, tokens) in enumerate(share(number, 4, prompts, expected)):
            stop = tokens[(4 * index + number) % LIMIT]
            found = decode(decoder, prompt, LIMIT, stop_ids={stop})
            assert found.token_ids == tokens[: tokens.index(stop) + 1]
            assert found.finish == "stop"


def tiny_pair():
    """A target of six tokens and a draft that is not far from it."""
    target = tiny_model("llama", vocab_size=6, initializer_range=0.35)
    draft = noisy(target)
    target.generation_config = GenerationConfig()
    return target, draft


@pytest.mark.parametrize("assisted", [False, True])
def test_draws_have_the_model_s_distribution(assisted):
    target, draft = tiny_pair()
    decoder = HfDecoder(target, draft if assisted else None, k=2)
    prompt = torch.tensor([1, 2, 3])
    draws, replies = 300, []
    for seed in range(draws):
        found = drawn(decoder, prompt, 3, Sampling(1.3, 0.9, seed))
        replies.append(found.token_ids)
    again = drawn(decoder, prompt, 3, Sampling(1.3, 0.9, 5))
    assert again.token_ids == replies[5]
    stems = torch.arange(6)[:, None]
    with torch.inference_mode():
        logits = target(torch.cat([prompt.expand(6, -1), stems], dim=1)).logits
    first, second = (probabilities(logits[:, at], Sampling(1.3, 0.9)).double() for at in (-2, -1))
    joint = (first[0][:, None] * second).flatten()
    counts = torch.zeros(36, dtype=torch.float64)
    for tokens in replies:
        counts[6 * tokens[0] + tokens[1]] += 1
    assert counts[joint == 0].sum() == 0
    often = joint * draws >= 5
    hoped = torch.cat([joint[often], joint[~often].sum()[None]]) * draws
    found = torch.cat([counts[often], counts[~often].sum()[None]])
    kept = hoped > 0
    assert kept.sum() > 5
    assert chisquare(found[kept], hoped[kept] * draws / hoped[kept].sum()).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_last_position(prompts, kind):
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    model = tiny_model(kind, **{length: 32})
    model.generation_config = GenerationConfig()
    prompt = prompts[8]
    decoder, static = HfDecoder(model), HfDecoder(model, cache="static")
    for each in (decoder, static):
        assert len(decode(each, prompt, 32 - len(prompt) + 1).token_ids) == 32 - len(prompt) + 1
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = 28
    for each in (decoder, static, HfDecoder(model, short)):
        with pytest.raises(UserError, match=r"the reply reaches the (32|28) positions"):
            decode(each, prompt, 32)


def test_unequal_vocabularies_are_refused(tmp_path):
    target = write_checkpoint(tmp_path / "target")
    draft = AutoModelForCausalLM.from_pretrained(target)
    draft.resize_token_embeddings(320, mean_resizing=False)
    draft.save_pretrained(tmp_path / "draft")
    family = family_of({"target": target, "draft": tmp_path / "draft"})
    with pytest.raises(UserError, match="'draft' has 320 token ids and 'target' 285"):
        HfAssisted().bind(family)
    with pytest.raises(UserError, match="k must be at least 1, not 0"):
        HfAssisted(k=0)


def test_as_a_run(monkeypatch, tmp_path, command):
    """Bound anew in every second round, the rows load each checkpoint once."""
    loaded = []
    load = loading.load_plain_model

    def counted(checkpoint, runtime):
        loaded.append(Path(checkpoint.location).name)
        return load(checkpoint, runtime)

    monkeypatch.setattr(loading, "load_plain_model", counted)
    monkeypatch.setattr(executor, "ROUNDS_TO_A_BINDING", 2)
    bound, bind = [], HfGenerate.bind
    monkeypatch.setattr(HfGenerate, "bind", lambda *asked: bound.append(1) or bind(*asked))
    out = tmp_path / "out"
    own = ["hf_generate", "hf_generate:cache=static", "hf_assisted:k=2,draft=other"]
    methods = [word for each in own for word in ("--method", each)]
    asked = [*command, *methods, "--data", tmp_path, "--repeats", 1, "--output", out]
    assert cli(monkeypatch, *asked) == 0
    found = {row["method"]: row for row in rows(out)}
    assert set(found) == {"ar", *own}
    assert all(row["verdict"] == "exact" for row in rows(out) if row["method"] != "ar")
    assert len(bound) > 4
    assert sorted(loaded) == ["other", "target"]
