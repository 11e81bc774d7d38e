"""No layer is taken for one that computes something else: layers that differ in one point each."""

import pytest
import torch
from random_models import tiny_model
from torch import nn
from torch.nn.functional import relu
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, rotate_half

from cllm_bench.engine.fused_layers import fuse_layers, fused_layers_of
from cllm_bench.engine.fusion import fuse_norms


def in_halves(part, cosine, sine):
    return part * cosine + rotate_half(part) * sine


def in_pairs(part, cosine, sine):
    half = part.shape[-1] // 2
    cosine, sine = (each[..., :half].repeat_interleave(2, -1) for each in (cosine, sine))
    turned = torch.stack((-part[..., 1::2], part[..., ::2]), -1).flatten(-2)
    return part * cosine + turned * sine


def not_at_all(part, *_):
    return part


# How queries, keys and values are turned.
ROTATIONS = {
    "pairs": (in_pairs, in_pairs, not_at_all),
    "only queries": (in_halves, not_at_all, not_at_all),
    "values too": (in_halves, in_halves, in_halves),
}
# What is done to queries, keys and values before, to queries behind, and to scores.
BEFORE = {"clipped": lambda part: part.clamp(-8, 8)}
BEHIND = {
    "unit heads": lambda query, _: nn.functional.rms_norm(query, query.shape[-1:]),
    "scaled by position": lambda query, at: query * (1 + (at // 8192).log1p()[:, None, :, None]),
}
SCORES = {
    "capped": lambda scores, _: 50 * (scores / 50).tanh(),
    "distance": lambda scores, steps: scores - 0.1 * (steps[:, None] - steps),
}
SEEN = {"other order of heads": lambda seen: seen.flip(1)}
SINKS = "sinks"


def same(thing, *_):
    return thing


class OtherAttention(LlamaAttention):
    """Llama's attention written out, with one change."""

    change = ""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **given):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        parts = (product(hidden_states) for product in (self.q_proj, self.k_proj, self.v_proj))
        parts = [part.view(shape).transpose(1, 2) for part in parts]
        parts = map(BEFORE.get(self.change, same), parts)
        angles = [part.unsqueeze(1) for part in position_embeddings]
        rotations = ROTATIONS.get(self.change, (in_halves, in_halves, not_at_all))
        query, key, value = (
            turn(part, *angles) for turn, part in zip(rotations, parts, strict=True)
        )
        query = BEHIND.get(self.change, same)(query, given["position_ids"])
        key, value = (part.repeat_interleave(self.num_key_value_groups, 1) for part in (key, value))
        scores, rows = query @ key.transpose(-1, -2) * self.scaling, hidden_states.shape[1]
        scores = SCORES.get(self.change, same)(scores, torch.arange(rows))
        if attention_mask is None:
            hidden = torch.ones(rows, rows).triu(1) > 0
            attention_mask = torch.zeros(rows, rows).masked_fill(hidden, float("-inf"))
        scores = scores + attention_mask
        if self.change == SINKS:
            scores = torch.cat([scores, torch.zeros_like(scores[..., :1])], -1)
        seen = SEEN.get(self.change, same)(scores.softmax(-1)[..., :rows] @ value)
        return self.o_proj(seen.transpose(1, 2).flatten(2)), None


class OtherMLP(LlamaMLP):
    """Llama's MLP written out, with one change."""

    change = ""

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.change == "clipped gate":
            gate, up = gate.clamp(max=7), up.clamp(-7, 7)
        if self.change == "gate and up swapped":
            gate, up = up, gate
        if self.change == "other activation":
            return self.down_proj(relu(gate) * up)
        found = self.down_proj(self.act_fn(gate) * up)
        return 1.01 * found if self.change == "scaled" else found


def changed(part, kind, change, dtype=torch.float32, **settings):
    """A tiny Llama whose second layer has another attention or MLP."""
    model = tiny_model("llama-grouped", **settings).to(dtype)
    module = getattr(model.model.layers[1], part)
    module.__class__ = type("Other", (kind,), {"change": change})
    fuse_norms(model)
    return model


ATTENTION = (*ROTATIONS, *BEFORE, *BEHIND, *SCORES, *SEEN, SINKS)
MLP = ("clipped gate", "gate and up swapped", "other activation", "scaled")


@pytest.mark.parametrize("change", ["", *ATTENTION])
def test_another_attention_is_not_llama_s(change):
    """Nor where the weights are so small, and their type so coarse, that little would show."""
    for settings in ({}, {"dtype": torch.bfloat16, "initializer_range": 1e-3}):
        model = changed("self_attn", OtherAttention, change, **settings)
        assert fuse_layers(model) == (1 if change else 2)


@pytest.mark.parametrize("change", ["", *MLP])
def test_another_mlp_is_not_llama_s(change):
    for settings in ({}, {"dtype": torch.bfloat16, "initializer_range": 1e-3}):
        model = changed("mlp", OtherMLP, change, **settings)
        assert fuse_layers(model) == (1 if change else 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["wide", "small", "zero"])
@torch.no_grad()
def test_a_layer_that_does_not_rotate_is_not_taken_for_one_that_does(weights, dtype, prompts):
    """SmolLM3 has layers of both kinds; with small weights the residual hides the difference."""
    settings = {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1]}
    scale = {"wide": 0.6, "small": 0.02, "zero": 0.02}[weights]
    model = tiny_model("smollm3", initializer_range=scale, **settings).to(dtype)
    if weights == "zero":  # as some trainings begin: the layers add nothing yet
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    fuse_norms(model)
    before = [model(prompt[None]).logits for prompt in prompts[:6]]
    assert fuse_layers(model) == 4
    found = [layer.is_made_of.rotates for layer in fused_layers_of(model)]
    assert found == [True, False, True, True]
    tolerance = 32 * torch.finfo(dtype).eps
    for prompt, logits in zip(prompts[:6], before, strict=True):
        difference = (model(prompt[None]).logits - logits).abs().max()
        assert difference <= tolerance * logits.abs().max()


@pytest.mark.parametrize("kind", ["qwen3", "olmo2", "olmo2-grouped"])
@torch.no_grad()
def test_norms_of_queries_and_keys_are_not_left_out(kind):
    """Theirs begin as ones, which a comparison on the model's own weights may not show."""
    model = tiny_model(kind)
    fuse_norms(model)
    assert fuse_layers(model) == 2
    assert all(len(layer.is_made_of.head_norms) == 2 for layer in fused_layers_of(model))
    ids = torch.arange(9)[None]
    before = model(ids).logits
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.mul_(
            torch.linspace(0.2, 3, len(layer.self_attn.q_norm.weight))
        )
    own = tiny_model(kind)
    own.load_state_dict(model.state_dict())
    after = model(ids).logits
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(after, own(ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_norm_of_heads_behind_the_rotation_stays():
    """With weights of one it would commute with the rotation."""
    model = tiny_model("qwen3")

    class Behind(type(model.model.layers[0].self_attn)):
        def forward(self, hidden_states, position_embeddings, attention_mask=None, **given):
            cosine, sine = (part.unsqueeze(1) for part in position_embeddings)
            shape = (*hidden_states.shape[:-1], -1, self.head_dim)
            query, key, value = (
                product(hidden_states).view(shape).transpose(1, 2)
                for product in (self.q_proj, self.k_proj, self.v_proj)
            )
            query, key = (part * cosine + rotate_half(part) * sine for part in (query, key))
            seen = nn.functional.scaled_dot_product_attention(
                self.q_norm(query),
                self.k_norm(key),
                value,
                attention_mask,
                is_causal=attention_mask is None and query.shape[2] > 1,
                scale=self.scaling,
                enable_gqa=True,
            )
            return self.o_proj(seen.transpose(1, 2).flatten(2)), None

    model.model.layers[0].self_attn.__class__ = Behind
    fuse_norms(model)
    assert fuse_layers(model) == 1


def test_a_weight_beside_the_products_is_not_overlooked():
    """Attention sinks are such weights; a kernel that does not know them leaves them out."""
    model = tiny_model("llama")
    model.model.layers[0].self_attn.sinks = nn.Parameter(torch.zeros(4))
    fuse_norms(model)
    assert fuse_layers(model) == 1


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_norms_scale_by_their_weight_or_by_one_more(kind):
    """Also where the weights that a model has would not tell them apart."""
    model = tiny_model(kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.zero_()
    fuse_norms(model)
    names = {type(module).__name__ for module in model.modules() if isinstance(module, nn.RMSNorm)}
    assert names == {{"llama": "StepwiseRMSNorm", "gemma": "FastOffsetRMSNorm"}[kind]}
    assert fuse_layers(model) == 2


def test_layers_that_something_hooks_onto_stay():
    """As placing a model on several devices does."""
    model = tiny_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    own = model.model.layers[1].self_attn.forward
    model.model.layers[1].self_attn.forward = lambda *given, **named: own(*given, **named)
    fuse_norms(model)
    assert fuse_layers(model) == 0
