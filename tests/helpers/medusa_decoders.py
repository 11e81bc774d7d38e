"""Medusa decoders of tiny models, with random heads."""

import torch

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.session import Session
from cllm_bench_methods.medusa.heads import StoredHeads
from cllm_bench_methods.medusa.method import (
    Medusa,
    MedusaDecoder,
)
from cllm_bench_methods.medusa.tree import Tree

LIMIT = 21
DEEP = "0.0.0.0;0.1.0;0.0.1.1;1.0.1;1.1;2"
GREEDY = Sampling()


def random_weights(model, count=4, layers=1, own=True, seed=0):
    """Weights under the keys of published checkpoints."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, width = model.get_output_embeddings().weight.shape
    found = {}
    for head in range(count):
        for layer in range(layers):
            found[f"{head}.{layer}.linear.weight"] = torch.randn(width, width, generator=generator)
            found[f"{head}.{layer}.linear.bias"] = torch.randn(width, generator=generator)
        if own:
            found[f"{head}.{layers}.weight"] = torch.randn(vocabulary, width, generator=generator)
    return found


def random_heads(model, count):
    return StoredHeads("random", random_weights(model, count), {}).attach(model, count)


def medusa(model, text, heads=None, **settings):
    tree = Tree.parse(text)
    heads = heads or random_heads(model, tree.depth)
    return MedusaDecoder(Medusa(text, **settings), Session(model), heads, tree)


def decode(decoder, prompt, limit=LIMIT, stop_ids=(), sampling=GREEDY):
    options = {"max_new_tokens": limit, "stop_ids": stop_ids, "clock": Clock()}
    return generate(decoder, prompt, sampling=sampling, **options)
