"""Greedy decoding by a method, and by one forward pass a token, to compare with."""

import torch

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock

LIMIT = 28


def decode(decoder, prompt, limit=LIMIT, stop_ids=()):
    return generate(
        decoder,
        prompt,
        sampling=Sampling(),
        max_new_tokens=limit,
        stop_ids=stop_ids,
        clock=Clock(),
    )


def expected_tokens(model, prompt, limit=LIMIT, stop_id=None):
    output = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=stop_id,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())
