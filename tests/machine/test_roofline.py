"""The roof that memory sets: bytes of a pass, and the bandwidth of large reads and copies."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cllm_bench.machine import roofline


def test_the_bytes_of_a_pass():
    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tied = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=True))
    apart = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=False))
    assert roofline.weight_bytes(tied) == 4 * sum(each.numel() for each in tied.parameters())
    assert roofline.weight_bytes(apart) == roofline.weight_bytes(tied)
    assert roofline.cache_bytes(tied) == 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size
    half = tied.to(torch.bfloat16)
    assert roofline.cache_bytes(half) == 2 * 2 * 2 * 8 * 2
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4))
    assert roofline.cache_bytes(gpt2) == 3 * 2 * 32 * 4


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(roofline, "_SIZES", {"cpu": (2**22,), "cuda": (2**24, 2**22)})


def test_the_bandwidth_is_that_of_large_reads_and_copies(small):
    found = roofline.bandwidth("cpu")
    assert 1e8 < found.read < 1e14
    assert 1e8 < found.copy < 1e14
    assert roofline.bandwidth("cpu") is found  # measured once a process
    roofline.bandwidth.cache_clear()


def test_reads_of_a_size_are_as_large_and_no_larger_than_the_large_one(small, monkeypatch):
    read, reads = [], roofline._reads
    monkeypatch.setattr(roofline, "_reads", lambda buffer: read.append(buffer) or reads(buffer))
    assert 1e8 < roofline.read_bandwidth.__wrapped__("cpu", 100_000) < 1e14
    assert [each.nbytes for each in read] == [4 * 8 * roofline._COLUMNS]
    found = roofline.read_bandwidth.__wrapped__("cpu", 2**22)
    assert found == roofline.bandwidth("cpu").read
    roofline.bandwidth.cache_clear()


def test_every_way_reads_the_whole_buffer_once():
    buffer = torch.rand(2 * roofline._COLUMNS)
    total, product, rows = (way() for way in roofline._reads(buffer))
    assert total == buffer.sum()
    assert product == buffer[: len(buffer) // 2] @ buffer[len(buffer) // 2 :]
    assert torch.allclose(rows, buffer.view(2, -1).sum(1))


def test_the_fastest_way_is_the_roof_and_bytes_are_counted(monkeypatch, small):
    """Reads move the buffer once; a copy moves half of it twice."""
    monkeypatch.setattr(roofline, "_REPEATS", 3)
    seconds = iter([0.5] * 3 + [0.4] * 3 + [0.9, 0.2, 0.3] + [0.8] * 3)
    monkeypatch.setattr(roofline, "_seconds", lambda run, device: next(seconds))
    assert roofline.bandwidth.__wrapped__("cpu") == (2**22 / 0.2, 2**22 / 0.5)
    assert next(seconds, None) is None


def test_a_gpu_is_timed_by_its_events_and_asked_for_what_it_has_room_for(monkeypatch, small):
    asked, log = [], []
    arange = torch.arange

    def take(count, *, device, dtype):
        asked.append(4 * count)
        if 4 * count > 2**22:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return arange(count, dtype=dtype)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return 2.0  # milliseconds

    monkeypatch.setattr(torch, "arange", take)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    found = roofline.bandwidth.__wrapped__("cuda:0")
    assert found == pytest.approx((2**22 / 0.002, 2**22 / 0.002))
    assert asked == [2**24, 2**22]
    assert log == ["record", "record", "wait"] * 4 * roofline._REPEATS
    monkeypatch.setattr(roofline, "_SIZES", {"cuda": (2**24,)})
    assert roofline.bandwidth.__wrapped__("cuda:0") is None
