"""Greedy decoding by a method, and by one forward pass a token, to compare with."""

from itertools import islice

import torch

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock

LIMIT = 28


def share(number, of, *lists):
    """Rows of the lists, every `of`-th one from `number` on.

    Cases that take other shares of the prompts meet every prompt between them, and every case
    still meets every kind of model.
    """
    return islice(zip(*lists, strict=True), number % of, None, of)


def half_first(number, *lists):
    """All rows of the lists: one half first, the other one for the next number.

    For cases that need as many prompts as it takes until something rare has been seen.
    """
    return [*share(number, 2, *lists), *share(number + 1, 2, *lists)]


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
