"""Batches of random ids, and the plain loss of the next token."""

import torch

from cllm_bench.training.trainer import LossSum


def texts(number):
    """Two rows of eleven ids, other ones for every number."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 61, (2, 11), generator=generator)


def next_token(model, ids):
    """The plain loss, through a mask and positions of its own as consistency training has them."""
    size = ids.shape[1]
    hidden = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)
    logits = model(
        input_ids=ids,
        attention_mask=hidden.expand(len(ids), 1, size, size),
        position_ids=torch.arange(size).expand(len(ids), size),
        use_cache=False,
    ).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    first = losses.detach().view(len(ids), -1)[:, 0].sum()
    return LossSum(losses.sum(), losses.numel(), {"first": first})
