import gc

import pytest
import torch
from random_models import FURTHER, KINDS, UNFUSED, tiny_model
from torch import nn

from cllm_bench.engine import fused_layers
from cllm_bench.engine.attention import register
from cllm_bench.engine.cache import PreallocatedCache
from cllm_bench.engine.fused_body import LeanBody, fuse_body
from cllm_bench.engine.fused_layers import fuse_layers, fused_layers_of
from cllm_bench.engine.fusion import fuse, fuse_norms, shorten_lookups
from cllm_bench.engine.norms import StepwiseRMSNorm
from cllm_bench.engine.session import Session, cache_argument

LAYER_NORMS = ("gpt2", "gpt-neox", "gpt-neox-sequential", "phi", "starcoder2", "stablelm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*KINDS, *FURTHER])
def test_norms_leave_logits_the_same_to_the_last_bit(kind, dtype, prompts):
    model, prompts = trained(kind, dtype), prompts[::3]
    with torch.inference_mode():
        before = [model(prompt[None]).logits for prompt in prompts]
        swapped = fuse_norms(model)
        shorten_lookups(model)
        after = [model(prompt[None]).logits for prompt in prompts]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert bool(swapped) is (kind not in LAYER_NORMS)


@pytest.mark.parametrize("kind", [*KINDS, *FURTHER, *UNFUSED])
@torch.no_grad()
def test_layers_leave_logits_the_same_up_to_rounding(kind, prompts):
    model = trained(kind)
    before = [model(prompt[None]).logits for prompt in prompts[::3]]
    names = {name: weight.clone() for name, weight in model.named_parameters()}
    fuse_norms(model)
    assert fuse_layers(model) == (0 if kind in UNFUSED else 2)
    after = [model(prompt[None]).logits for prompt in prompts[::3]]
    for one, other in zip(before, after, strict=True):
        close = 1e-4 * float(one.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-5, atol=close)
    kept = dict(model.named_parameters())
    assert kept.keys() == names.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in names.items())


def trained(kind, dtype=torch.float32, seed=0, **changes):
    """A model whose norms and biases are not what every model begins with."""
    model = tiny_model(kind, seed=seed, **changes)
    for weight in model.parameters():
        if weight.dim() == 1:
            nn.init.uniform_(weight, 0.5, 2.0)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", [*KINDS, *FURTHER])
@torch.no_grad()
def test_layers_are_fused_in_every_precision(kind, dtype, prompts):
    """Norms that round twice are no reason to leave a layer as it is, nor angles in float32."""
    model = trained(kind, dtype)
    before = [model(prompt[None]).logits for prompt in prompts[::5]]
    fuse_norms(model)
    assert fuse_layers(model) == len(fused_layers_of(model)) == 2
    for one, prompt in zip(before, prompts[::5], strict=True):
        tolerance = 16 * torch.finfo(dtype).eps * float(one.abs().max())
        torch.testing.assert_close(model(prompt[None]).logits, one, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@torch.no_grad()
def test_other_weights_can_be_loaded_into_a_fused_model(kind, prompts):
    """Biases too: a recipe decodes with what its last round trained."""
    model, other = fuse(trained(kind)), trained(kind, seed=1)
    model.load_state_dict(other.state_dict())
    for prompt in prompts:
        expected = other(prompt[None]).logits
        torch.testing.assert_close(model(prompt[None]).logits, expected, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_hidden_states_of_fused_layers_can_be_asked_for():
    model, fused = tiny_model("llama"), fuse(tiny_model("llama"))
    ids = torch.arange(9)[None]
    expected = model(ids, output_hidden_states=True).hidden_states
    found = fused(ids, output_hidden_states=True).hidden_states
    assert len(found) == len(expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def is_fused(model):
    return isinstance(model.base_model.__dict__.get("forward"), LeanBody)


@pytest.mark.parametrize("kernel", ["sdpa", "plain"])
@pytest.mark.parametrize("kind", [*KINDS, *FURTHER])
def test_a_fused_body_leaves_logits_the_same_to_the_last_bit(kind, kernel, prompts):
    register()
    models = [tiny_model(kind, attn_implementation=kernel) for _ in range(2)]
    for model in models:
        fuse_norms(model)
        fuse_layers(model)
    fused = fuse_body(models[1])
    assert fused is is_fused(models[1]) is (kind != "gemma3-seeing")  # it has a body inside a body
    assert not is_fused(models[0])
    one, other = map(Session, models)
    tree = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    with torch.inference_mode():
        for prompt in prompts[::4]:
            assert torch.equal(one.prefill(prompt).logits, other.prefill(prompt).logits)
            for more in ({}, {"depth": torch.tensor([0, 1, 1]), "mask": tree}, {"hidden": True}):
                found, expected = (each.forward([5, 9, 11], **more) for each in (one, other))
                assert torch.equal(found.logits, expected.logits)
                assert (found.hidden is None) is ("hidden" not in more)
                if found.hidden is not None:
                    assert torch.equal(found.hidden, expected.hidden)
            found, expected = (each.forward([7]) for each in (one, other))
            assert torch.equal(found.logits, expected.logits)


@torch.no_grad()
def test_what_a_fused_body_does_not_do_the_models_own_does():
    """No cache, another cache, embeddings, all states, or rows behind others without a mask."""
    plain, fused = tiny_model("llama"), tiny_model("llama")
    for model in (plain, fused):
        fuse_norms(model)
        fuse_layers(model)
    assert fuse_body(fused)
    ids = torch.arange(9)[None]
    name = cache_argument(plain)
    for given in (
        {"input_ids": ids},
        {"input_ids": ids, "use_cache": False},
        {"input_ids": ids, "output_hidden_states": True},
        {"inputs_embeds": plain.model.embed_tokens(ids)},
        {"input_ids": ids, "attention_mask": torch.tensor([[0] * 4 + [1] * 5])},
    ):
        assert torch.equal(plain(**given).logits, fused(**given).logits)
    logits = []
    for model in (plain, fused):
        cache = PreallocatedCache(2, 16)
        positions = torch.arange(9)[None]
        model(ids[:, :4], **{name: cache}, position_ids=positions[:, :4])
        cache.commit(4)
        logits += [model(ids[:, 4:], **{name: cache}, position_ids=positions[:, 4:]).logits]
    assert torch.equal(*logits)
    torch.testing.assert_close(logits[0], plain(ids).logits[:, 4:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["another part", "a layer that is not fused", "other formula"])
@torch.no_grad()
def test_a_body_that_is_something_else_stays(change):
    model = tiny_model("llama")
    if change == "a layer that is not fused":
        model.model.layers[1].mlp.up_proj = nn.Sequential(model.model.layers[1].mlp.up_proj)
    fuse_norms(model)
    fuse_layers(model)
    if change == "another part":
        model.model.another = nn.Identity()
    elif change == "other formula":
        own = model.model.forward

        def scaled(**given):
            output = own(**given)
            output.last_hidden_state = 1.5 * output.last_hidden_state
            return output

        model.model.forward = scaled
    before = model.model.forward
    assert not fuse_body(model)
    assert model.model.forward == before


def test_a_joined_product_takes_no_more_memory():
    model = fuse(tiny_model("llama"))
    attention = model.model.layers[0].self_attn
    places = [attention.q_proj, attention.k_proj, attention.v_proj]
    storages = {product.weight.untyped_storage().data_ptr() for product in places}
    assert len(storages) == 1


@pytest.mark.parametrize("change", ["other product", "other formula", "eager"])
@torch.no_grad()
def test_a_layer_that_is_something_else_stays(change):
    model = tiny_model("llama")
    fuse_norms(model)
    layer = model.model.layers[1]
    if change == "other product":
        layer.mlp.up_proj = nn.Sequential(layer.mlp.up_proj)
    elif change == "eager":
        model.set_attn_implementation("eager")
    else:
        own = layer.forward
        layer.forward = lambda hidden_states, position_embeddings=None, **given: (
            1.001 * own(hidden_states, position_embeddings=position_embeddings, **given)
        )
    assert fuse_layers(model) == (0 if change == "eager" else 1)


def test_weights_keep_their_names_and_identity():
    model = tiny_model("qwen3")
    before = dict(model.named_parameters())
    fuse_norms(model)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("size", [8, 320, 1000])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-5])
def test_a_norm_by_its_own_steps_is_torch_s_to_the_last_bit(size, epsilon):
    fused = StepwiseRMSNorm(size, eps=epsilon)
    plain = nn.RMSNorm(size, eps=epsilon)
    fused.weight = plain.weight = nn.Parameter(torch.rand(size) + 0.5)
    with torch.inference_mode():
        for scale in (1e-4, 1.0, 1e3):
            states = scale * torch.randn(2, 7, size)
            before = states.clone()
            assert torch.equal(fused(states), plain(states))
            assert torch.equal(states, before)


def test_a_norm_that_computes_something_else_stays():
    class ScaledRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.variance_epsilon = 1e-6

        def forward(self, states):
            variance = states.pow(2).mean(-1, keepdim=True)
            return (2 + self.weight) * states * torch.rsqrt(variance + self.variance_epsilon)

    model = nn.Sequential(ScaledRMSNorm())
    assert fuse_norms(model) == 0
    assert isinstance(model[0], ScaledRMSNorm)


@torch.no_grad()
def test_lookups_are_short_and_assignments_still_hold():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
    linear, norm = model
    shorten_lookups(model)
    assert linear.__dict__["weight"] is linear.weight
    assert model.__dict__["0"] is linear
    linear.weight = nn.Parameter(torch.zeros(3, 2))
    norm.running_mean = torch.ones(3)
    assert not linear(torch.ones(1, 2)).any()
    assert float(norm.running_mean.sum()) == 3.0
    assert dict(model.named_parameters())["0.weight"] is linear.weight
    model[0] = nn.Identity()
    assert isinstance(model.get_submodule("0"), nn.Identity)


def test_a_rotary_embedding_that_changes_with_the_context_still_does():
    """Dynamic scaling assigns new frequencies once the sequence outgrows the trained length."""
    parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    settings = {"rope_parameters": parameters, "max_position_embeddings": 16}
    plain, fused = tiny_model("llama", **settings), fuse(tiny_model("llama", **settings))
    ids = torch.arange(48)[None]
    with torch.inference_mode():
        for length in (48, 8):
            expected = plain(ids[:, :length]).logits
            torch.testing.assert_close(
                fused(ids[:, :length]).logits, expected, rtol=1e-5, atol=1e-5
            )


@torch.no_grad()
def test_weights_that_are_loaded_for_each_pass_still_are(prompts):
    """Nothing is fused of a model whose weights lie elsewhere, and it answers as before."""
    from accelerate import cpu_offload

    model = tiny_model("llama")
    expected = [model(prompt[None]).logits for prompt in prompts[::5]]
    cpu_offload(model, execution_device="cpu")
    assert not fused_layers_of(fuse(model))
    for prompt, logits in zip(prompts[::5], expected, strict=True):
        assert torch.equal(model(prompt[None]).logits, logits)


def test_weights_loaded_for_training_are_left_alone(tmp_path):
    from families import write_checkpoint

    from cllm_bench.engine.checkpoint import Checkpoint
    from cllm_bench.engine.loading import load_model, load_weights
    from cllm_bench.engine.runtime import Runtime

    where = Checkpoint(str(write_checkpoint(tmp_path / "one")))
    runtime = Runtime("cpu", "float32", threads=1)
    plain, fused = load_weights(where, runtime), load_model(where, runtime)
    assert type(plain.model.norm).__name__ == "LlamaRMSNorm"
    assert isinstance(fused.model.norm, nn.RMSNorm)
    assert "weight" not in plain.model.norm.__dict__


def test_a_released_model_s_compiled_functions_lend_their_name_to_no_other(monkeypatch):
    """By that name torch notes which sizes vary: in a run in phases, models come and go."""
    numbers = []
    monkeypatch.setattr(fused_layers, "_compiled", lambda _, number: numbers.append(number))
    for seed in range(2):
        fused_layers._compiled_parts(tiny_model("llama", seed=seed))
        gc.collect()
    assert len(set(numbers)) == 2
