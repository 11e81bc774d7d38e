"""The roof that memory sets: bytes of a pass, and the bandwidth of a large copy."""

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


def test_the_copy_bandwidth_is_that_of_large_copies():
    found = roofline.copy_bandwidth("cpu")
    assert 1e8 < found < 1e13
    assert roofline.copy_bandwidth("cpu") == found  # measured once a process


def refuse_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_room_the_copy_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch, "ones", refuse_memory)
    assert roofline.copy_bandwidth.__wrapped__("cuda") is None
