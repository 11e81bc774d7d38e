import pytest
import torch
from conftest import KINDS, tiny_model
from torch import nn

from cllm_bench.fusion import fuse_norms


@pytest.mark.parametrize("kind", KINDS)
def test_logits_stay_the_same_to_the_last_bit(kind, prompts):
    model = tiny_model(kind)
    with torch.inference_mode():
        before = [model(prompt[None]).logits for prompt in prompts]
        swapped = fuse_norms(model)
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
