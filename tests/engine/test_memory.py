"""Memory at the shapes of 7B and 70B models, on the meta device: figures, shapes and devices."""

import pytest
import torch
from families import write_checkpoint
from transformers import LlamaConfig

from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.memory import Footprint, footprint, model_footprint, skeleton
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.machine.memory import free_memory

LLAMA_2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False}
SHAPES = {
    "7B": LlamaConfig(
        **LLAMA_2,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    ),
    "70B": LlamaConfig(
        **LLAMA_2,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    ),
}
# Parameters, as published; and bytes of a token's keys and values: 2 · layers · heads · 128 · 2.
PUBLISHED = {"7B": (6_738_415_616, 524_288), "70B": (68_976_648_192, 327_680)}
ROTATION = 2 * 64 * 4  # bytes of the two buffers of frequencies


@pytest.mark.parametrize("size", SHAPES)
def test_what_large_models_take(size):
    found = model_footprint(SHAPES[size], torch.bfloat16)
    parameters, cached = PUBLISHED[size]
    assert found == Footprint(2 * parameters + ROTATION, cached, 32000 * (2 + 4), 4096)
    assert model_footprint(SHAPES[size], torch.float32).weights == 4 * parameters + ROTATION
    assert found.cache(1024) == 1024 * cached
    assert found.cache(1025) == 2048 * cached
    assert found.cache(9999) == 4096 * cached  # the model has no more positions


@pytest.mark.parametrize("size", SHAPES)
def test_a_session_on_a_large_model_keeps_everything_on_one_device(size):
    """A chain, a tree, a rollback and growth: no tensor of another device, no wrong shape."""
    model = skeleton(SHAPES[size], torch.bfloat16)
    hidden, tokens = model.config.hidden_size, 1000

    def ids(count):
        return torch.zeros(count, dtype=torch.long, device="meta")

    session = Session(model)
    assert session.prefill(ids(tokens)).logits.shape == (1, 32000)
    chain = session.forward(ids(16), hidden=True)
    assert chain.logits.shape == (16, 32000)
    assert chain.hidden.shape == (16, hidden)
    session.keep(11)
    depth = torch.tensor([0, 1, 1, 2, 2], device="meta")
    mask = torch.ones(5, 5, dtype=torch.bool, device="meta").tril()
    tree = session.forward(ids(5), depth=depth, mask=mask)
    assert tree.logits.shape == (5, 32000)
    session.keep(torch.tensor([0, 2, 4], device="meta"))
    assert session.length == tokens + 14
    session.keep(0)
    assert session.forward(ids(16)).logits.shape == (16, 32000)  # the cache has to grow
    session.keep(16)
    layers = session._cache.layers
    assert {each.device.type for layer in layers for each in (layer.keys, layer.values)} == {"meta"}
    held = sum(each.nbytes for layer in layers for each in (layer.keys, layer.values))
    assert held == model_footprint(model.config, torch.bfloat16).cache(session.length)


def test_weights_that_no_session_runs_count_what_is_stored(tmp_path):
    from cllm_bench_methods.medusa.heads import write_heads

    weights = {"0.0.linear.weight": torch.zeros(8, 8), "0.0.linear.bias": torch.zeros(8)}
    write_heads(tmp_path, weights, {"model_type": "medusa"})
    found = footprint(Checkpoint(str(tmp_path)), Runtime("cpu", "float32"))
    assert found == Footprint(weights=4 * (64 + 8))


def test_what_a_stored_model_takes_is_what_it_takes_when_loaded(tmp_path):
    from cllm_bench.engine.loading import load_model

    checkpoint = Checkpoint(str(write_checkpoint(tmp_path / "target")))
    runtime = Runtime("cpu", "float32", threads=1).resolve()
    model = load_model(checkpoint, runtime)
    held = sum(each.nbytes for each in [*model.parameters(), *model.buffers()])
    assert footprint(checkpoint, runtime).weights == held


def test_what_makes_no_model_has_no_footprint(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"', encoding="utf-8")
    assert footprint(Checkpoint(str(tmp_path)), Runtime("cpu", "float32")) is None


def test_free_memory_of_this_machine():
    found = free_memory("cpu")
    assert found is None or 0 < found < 2**50
