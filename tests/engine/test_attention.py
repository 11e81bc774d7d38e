"""The kernel `grouped`: what transformers' `sdpa` gives, without copies of keys and values."""

import pytest
import torch
from random_models import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cllm_bench.engine.attention import (
    GROUPED,
    grouped_attention,
    plain_attention,
    register,
)
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.session import Session

register()

SIZE = 8
LENGTH = 500  # committed tokens


class Largest(TorchDispatchMode):
    """Notes the most elements that an operation writes."""

    elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        memory = {leaf.data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.data_ptr() not in memory:
                self.elements = max(self.elements, leaf.numel())
        return found


def given(heads, key_heads, rows, length=LENGTH):
    generator = torch.Generator().manual_seed(rows)
    query = torch.randn(1, rows, heads, SIZE, generator=generator).transpose(1, 2)
    buffer = torch.randn(2, 1, key_heads, 2 * LENGTH, SIZE, generator=generator)
    key, value = buffer[..., : length + rows, :]
    hidden = torch.ones(rows, length + rows, dtype=torch.bool).triu(length + 1)
    mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // key_heads
    return module, query, key, value, mask[None, None]


@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (6, 1)])
@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("kernel", [grouped_attention, plain_attention])
def test_chains_and_single_rows_agree(heads, rows, kernel):
    module, query, key, value, mask = given(*heads, rows)
    mask = None if rows == 1 else mask
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    with Largest() as largest:
        found, _ = kernel(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    scores = rows * heads[0] * (LENGTH + rows) if kernel is plain_attention else 0
    assert largest.elements <= max(scores, query.numel())  # less than the window's keys


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)])
@pytest.mark.parametrize("length", [0, 37, LENGTH])
def test_a_chain_needs_no_mask(heads, length):
    module, query, key, value, mask = given(*heads, 5, length)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask)
    found, _ = grouped_attention(module, query, key, value, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama-grouped", "qwen3", "gpt2"])
def test_sessions_without_masks_of_chains_give_the_same(kind, prompts):
    """As on CUDA, where flash attention serves them; models with bodies of their own too."""
    model = tiny_model(kind)
    expected = Session(fuse(tiny_model(kind)))
    model.set_attn_implementation(GROUPED)
    session = Session(fuse(model))
    assert not session._lower_right  # a CPU's kernel wants a mask
    session._lower_right = True
    for prompt in prompts[3:6]:
        for each in (expected, session):
            each.prefill(prompt)
        for rows in (1, 2, 7):
            ids = list(range(rows))
            found, wanted = session.forward(ids).logits, expected.forward(ids).logits
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            for each in (expected, session):
                each.keep(rows)


def test_what_the_kernel_does_not_know_the_library_computes():
    module, query, key, value, mask = given(4, 4, 3)
    with pytest.raises(ValueError, match="softcap"):
        grouped_attention(module, query, key, value, mask, softcap=30.0)
    two = [torch.cat([part, part]) for part in (query, key, value)]
    found, _ = grouped_attention(module, *two, mask)
    torch.testing.assert_close(found[:1], grouped_attention(module, query, key, value, mask)[0])
