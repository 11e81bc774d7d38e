"""The masks that attention gets: right for every length, and aligned as CUDA's kernels demand.

PyTorch's memory-efficient kernel takes a mask whose strides are multiples of 8 elements as it is
(it copies any other in every layer) and loads 16 bytes at a time from its address. The CPU accepts
every mask, so the demands are emulated here.
"""

import pytest
import torch
from greedy_decoding import decode
from method_decoders import decoders_of, models
from random_models import tiny_model

from cllm_bench.engine import attention
from cllm_bench.engine.cuda_graphs import Captures, GraphSession
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.session import ALIGNMENT, Session, _Masks

attention.register()

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


@pytest.fixture
def attended(monkeypatch):
    """What every call of attention gets: shapes and strides of queries and keys, and the mask."""
    calls = []

    def watched(query, key, value, attn_mask=None, **options):
        calls.append((query, key, attn_mask))
        return attend(query, key, value, attn_mask=attn_mask, **options)

    attend = torch.nn.functional.scaled_dot_product_attention
    for module in (torch.nn.functional, attention):
        monkeypatch.setattr(module, "scaled_dot_product_attention", watched)
    return calls


@pytest.mark.parametrize("kernel", ["sdpa", attention.GROUPED])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_gives_attention_aligned_masks(attended, prompts, dtype, kernel):
    three = models("llama-grouped", attn_implementation=kernel, dtype=dtype)
    for name, decoder in decoders_of(*three, Session).items():
        attended.clear()
        for prompt in prompts[::6]:
            decode(decoder, prompt, limit=20)
        masks = [mask for _, _, mask in attended if mask is not None]
        assert masks or name == "ar"
        wrong = [(mask.shape, found) for mask in masks if (found := violations(mask))]
        assert not wrong, (name, len(wrong), len(masks), wrong[:3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_captured_passes_have_few_plans_over_all_contexts(attended, dtype):
    """A kernel that plans for each shape would plan anew for every length of a growing context."""
    model = tiny_model("llama-grouped", attn_implementation=attention.GROUPED, dtype=dtype)
    model.config.max_position_embeddings = 4096
    session = GraphSession(fuse(model), Captures(replayed))
    session.prefill(torch.arange(1))
    for length in LENGTHS:
        session.length = length
        session.keep(0)
        for rows in (1, 2, 3, 5, 16, 31, 64, 128):
            session.forward([3] * rows)
    plans = {
        tuple((*part.shape, *part.stride()) for part in (query, key, mask))
        for query, key, mask in attended
        if mask is not None
    }
    assert not [mask for *_, mask in attended if mask is not None and violations(mask)]
    windows, capacities, padded = 5, 3, 8  # 256 to 4,096 columns, of buffers of 1,024 to 4,096
    assert len(plans) <= (windows + capacities) * padded


def replayed(run):
    run()
    return run
