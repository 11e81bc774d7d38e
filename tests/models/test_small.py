"""The small trained family: it answers, and every exact method gives its greedy answer."""

import pytest
import torch
from families import SMALL
from greedy_decoding import decode

from cllm_bench.contracts import Source
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.cllm.method import Cllm
from cllm_bench_methods.jacobi.method import Jacobi
from cllm_bench_methods.medusa.method import Medusa
from cllm_bench_methods.speculative.method import Speculative
from cllm_bench_tasks.spider.task import Spider

QUESTIONS = 6


@pytest.fixture(scope="module")
def family():
    return find_family(str(SMALL), runtime=Runtime("cpu", "float32", threads=1))


@pytest.fixture(scope="module")
def samples():
    return Spider().samples(Source()).samples[:QUESTIONS]


@pytest.fixture(scope="module")
def decoded(family, samples):
    def answers(method):
        decoder = method.bind(family)
        prompts = [torch.tensor(family.tokenizer(sample.prompt).input_ids) for sample in samples]
        return [decode(decoder, prompt, limit=128, stop_ids=family.stop_ids) for prompt in prompts]

    return {
        "ar": answers(Autoregressive()),
        "block": answers(Jacobi()),
        "sliding": answers(Jacobi(refill="sliding")),
        "cllm-ar": answers(Cllm(decoding="ar")),
        "cllm": answers(Cllm()),
        "cllm-sliding": answers(Cllm(refill="sliding")),
        "speculative": answers(Speculative()),
        "medusa": answers(Medusa()),
    }


@pytest.mark.parametrize("name", ["ar", "cllm"])
def test_it_answers(family, samples, decoded, name):
    task = Spider()
    replies = [
        family.tokenizer.decode(list(found.token_ids), skip_special_tokens=True)
        for found in decoded[name]
    ]
    scores = [task.score(sample, [reply]) for sample, reply in zip(samples, replies, strict=True)]
    assert sum(scores) / len(scores) >= 0.7
    assert all(found.finish == "stop" for found in decoded[name])


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("ar", "block"),
        ("ar", "sliding"),
        ("ar", "speculative"),
        ("ar", "medusa"),
        ("cllm-ar", "cllm"),
        ("cllm-ar", "cllm-sliding"),
    ],
)
def test_every_method_is_exact_and_never_takes_more_passes(decoded, own, name):
    for plain, parallel in zip(decoded[own], decoded[name], strict=True):
        assert parallel.token_ids == plain.token_ids
        assert len(parallel.accept_lengths) <= len(plain.accept_lengths)


def test_a_sliding_window_takes_no_more_passes_in_all(decoded):
    passes = {name: sum(len(found.accept_lengths) for found in decoded[name]) for name in decoded}
    assert passes["sliding"] <= passes["block"] <= passes["ar"]


def test_trained_methods_settle_several_tokens_a_pass_where_plain_jacobi_settles_one(decoded):
    def tokens_per_pass(name):
        kept = sum(len(found.token_ids) - 1 for found in decoded[name])
        return kept / sum(len(found.accept_lengths) for found in decoded[name])

    assert tokens_per_pass("block") < 1.3
    assert tokens_per_pass("cllm") > 3
    assert tokens_per_pass("speculative") > 3
    assert tokens_per_pass("medusa") > 2.5
