"""The masks that attention gets: right for every length, and aligned as CUDA's kernels demand.

PyTorch's memory-efficient kernel takes a mask whose strides are multiples of 8 elements as it is
(it copies any other in every layer) and loads 16 bytes at a time from its address. The CPU accepts
every mask, so the demands are emulated here.
"""

import pytest
import torch
from greedy_decoding import decode
from medusa_decoders import medusa
from noisy_families import noisy, speculative
from random_models import tiny_model

from cllm_bench.engine.session import ALIGNMENT, Session, _Masks
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_methods.lookahead.method import Lookahead
from cllm_bench_methods.prompt_lookup import PromptLookup

ADDRESS = 16  # bytes
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [*range(1, 70), 127, 128, 129, 511, 777, 1023, 1024, 1025, 1500, 2047, 2048, 2049, 2100]
ROWS = [2, 3, 5, 8, 16, 17, 31, 64, 65, 128]


def violations(mask):
    """What a kernel would object to."""
    strides = [stride for stride in mask.stride()[:-1] if stride % ALIGNMENT]
    return [
        *(f"stride {stride}" for stride in strides),
        *([f"last stride {mask.stride(-1)}"] if mask.stride(-1) != 1 else []),
        *([f"address {mask.data_ptr() % ADDRESS}"] if mask.data_ptr() % ADDRESS else []),
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chains_of_every_length_are_causal_and_aligned(dtype):
    masks, lowest = _Masks(torch.device("cpu"), dtype), torch.finfo(dtype).min
    for rows in ROWS:
        for length in LENGTHS:
            mask = masks.chain(rows, length)
            assert not violations(mask), (rows, length)
            hidden = torch.ones(rows, length + rows, dtype=torch.bool).triu(length + 1)
            expected = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, lowest)
            assert torch.equal(mask[0, 0], expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_trees_are_aligned(dtype):
    masks, lowest = _Masks(torch.device("cpu"), dtype), torch.finfo(dtype).min
    visible = torch.eye(5, dtype=torch.bool)
    visible[:, 0] = True
    for length in LENGTHS:
        mask = masks.tree(visible, length)
        assert not violations(mask), length
        assert not mask[0, 0, :, :length].any()
        expected = torch.zeros(5, 5, dtype=dtype).masked_fill(~visible, lowest)
        assert torch.equal(mask[0, 0, :, length:], expected)


class OnModel:
    """A family of one model."""

    def __init__(self, model):
        self.model = model

    def session(self, role):
        return Session(self.model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_gives_attention_aligned_masks(monkeypatch, prompts, dtype):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **options):
        if attn_mask is not None:
            seen.append((attn_mask.shape[-2], violations(attn_mask)))
        return attend(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = tiny_model("llama-grouped", attn_implementation="sdpa").to(dtype)
    decoders = {
        "jacobi": JacobiDecoder(Jacobi(5), Session(model), model.config.vocab_size, 0),
        "lookahead": Lookahead().bind(OnModel(model)),
        "prompt_lookup": PromptLookup().bind(OnModel(model)),
        "speculative": speculative(model, noisy(model), k=3),
        "medusa chain": medusa(model, "0.0.0"),
        "medusa tree": medusa(model, "0.0;0.1;1"),
    }
    for name, decoder in decoders.items():
        seen.clear()
        for prompt in prompts[::4]:
            decode(decoder, prompt, limit=20)
        assert seen, name
        assert {rows for rows, _ in seen} - {1}, name
        wrong = [(rows, found) for rows, found in seen if found]
        assert not wrong, (name, len(wrong), len(seen), wrong[:3])
