"""Parts that run compiled while a model is trained: which, when, and with what result."""

from functools import partial

import pytest
import torch
from next_token_training import next_token, texts
from random_models import tiny_model
from torch import nn

from cllm_bench.engine.fused_layers import ATTENTION, layers_of
from cllm_bench.errors import UserError
from cllm_bench.training.compiling import compiled_parts, running

# torch's tracer looks at gradients of states.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def traced(monkeypatch):
    """Real tracing, and no C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_all_parts_of_layers_but_attention_run_compiled_and_only_then(kind, traced):
    model = tiny_model(kind)
    parts = compiled_parts(model)
    expected = {
        part
        for layer in layers_of(model)
        for name, part in layer.named_children()
        if name not in ATTENTION
    }
    assert set(parts) == expected
    with running(parts):
        assert all(part.forward is compiled for part, compiled in parts.items())
    assert all("forward" not in part.__dict__ for part in parts)


def test_gradients_are_the_plain_ones(traced):
    model = tiny_model("llama")

    def gradients():
        model.zero_grad()
        for number in range(2):
            next_token(model, texts(number)).total.backward()
        return [weight.grad.clone() for weight in model.parameters()]

    plain = gradients()
    with running(compiled_parts(model)):
        compiled = gradients()
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_of_unknown_layers_is_refused():
    class Body(nn.Module):
        def get_decoder(self):
            return self

    with pytest.raises(UserError, match="no layers are known of a Body"):
        compiled_parts(Body())
