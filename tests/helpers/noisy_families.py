"""Families whose draft is the target with noise, and what speculative decoding draws from them."""

import copy

import torch
from greedy_decoding import LIMIT
from random_models import VOCABULARY

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.session import Session
from cllm_bench_methods.speculative.method import Speculative, SpeculativeDecoder

DRAWN = Sampling(temperature=0.9, top_p=0.95, seed=5)


def speculative(target, draft, **settings):
    sessions = (Session(target), Session(draft))
    return SpeculativeDecoder(Speculative(**settings), *sessions, VOCABULARY, 0)


def noisy(model):
    """A draft that often agrees with the model."""
    draft = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.03 * weight.std() * noise
    return draft


def drawn(decoder, prompt, limit=LIMIT, sampling=DRAWN):
    return generate(
        decoder, prompt, sampling=sampling, max_new_tokens=limit, stop_ids=(), clock=Clock()
    )
