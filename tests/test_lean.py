import pytest
import torch
from conftest import KINDS, tiny_model
from torch import nn

from cllm_bench.lean import fuse_norms, make_lean, shorten_lookups


@pytest.mark.parametrize("kind", KINDS)
def test_logits_stay_the_same_to_the_last_bit(kind, prompts):
    model = tiny_model(kind)
    with torch.inference_mode():
        before = [model(prompt[None]).logits for prompt in prompts]
        swapped = fuse_norms(model)
        make_lean(model)
        after = [model(prompt[None]).logits for prompt in prompts]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert bool(swapped) is (kind not in ("gpt2", "gpt-neox"))  # those have layer norms


def test_weights_keep_their_names_and_identity():
    model = tiny_model("qwen3")
    before = dict(model.named_parameters())
    fuse_norms(model)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_a_norm_that_computes_something_else_stays():
    class ScaledRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.variance_epsilon = 1e-6

        def forward(self, states):
            variance = states.pow(2).mean(-1, keepdim=True)
            return (1 + self.weight) * states * torch.rsqrt(variance + self.variance_epsilon)

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
    plain, lean = tiny_model("llama", **settings), make_lean(tiny_model("llama", **settings))
    ids = torch.arange(48)[None]
    with torch.inference_mode():
        assert torch.equal(plain(ids).logits, lean(ids).logits)
        assert torch.equal(plain(ids[:, :8]).logits, lean(ids[:, :8]).logits)


def test_weights_loaded_for_training_are_left_alone(tmp_path):
    from families import write_checkpoint

    from cllm_bench.checkpoint import Checkpoint
    from cllm_bench.loading import load_model, load_weights
    from cllm_bench.runtime import Runtime

    where = Checkpoint(str(write_checkpoint(tmp_path / "one")))
    runtime = Runtime("cpu", "float32", threads=1)
    plain, lean = load_weights(where, runtime), load_model(where, runtime)
    assert type(plain.model.norm).__name__ == "LlamaRMSNorm"
    assert isinstance(lean.model.norm, nn.RMSNorm)
    assert "weight" not in plain.model.norm.__dict__
