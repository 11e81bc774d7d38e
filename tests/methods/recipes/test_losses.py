"""The loss of answers."""

import pytest
import torch

from cllm_bench_methods.recipes.examples import Example, collate
from cllm_bench_methods.recipes.losses import answer_loss


@torch.no_grad()
def test_the_loss_is_the_summed_weighted_cross_entropy(llama):
    batch = collate([Example([1, 2, 3], [4, 5]), Example([6], [7])], prompt_weight=0.5)
    expected, total = 0.0, 0.0
    for ids, weights_ in (([1, 2, 3, 4, 5], [0.5, 0.5, 1, 1]), ([6, 7], [1])):
        logits = llama(torch.tensor([ids])).logits[0].log_softmax(-1)
        for position, weight in enumerate(weights_):
            expected -= weight * float(logits[position, ids[position + 1]])
            total += weight
    loss = answer_loss(llama, batch)
    assert loss.count == total
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
