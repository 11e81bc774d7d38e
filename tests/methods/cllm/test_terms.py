"""What stands beside the objective's loss: prompts, smoothing, the anchor and what it is over."""

import random
from dataclasses import replace

import pytest
import torch
from packed_answers import PLAIN, after, texts, tiny
from random_models import tiny_model

from cllm_bench_methods.cllm.batches import cllm_loss, make_batch
from cllm_bench_methods.cllm.comparison import PackedLogits
from cllm_bench_methods.cllm.packing import differs, logits_apart
from cllm_bench_methods.cllm.states import Terms

ANSWERS = texts(2)
STATES = replace(PLAIN, copies=2)


def loss_with(terms, target=None, states=STATES):
    states = replace(states, terms=terms)
    batch = make_batch(ANSWERS, states, random.Random(0))
    return batch.packed, cllm_loss(tiny("llama"), batch, states, target)


def log_shares(model, ids):
    return after(model, (), ids).log_softmax(-1)


def test_prompt_tokens_but_the_first_count_by_their_weight():
    _, plain = loss_with(Terms(1.0))
    _, loss = loss_with(Terms(1.0, prompt_weight=0.5))
    expected = 0.0
    for answer in ANSWERS:
        rows = log_shares(tiny("llama"), answer.prompt)
        pairs = enumerate(answer.prompt[1:])
        expected -= sum(rows[place, token].item() for place, token in pairs)
    more = loss.parts["ar_loss"].item() - plain.parts["ar_loss"].item()
    assert more == pytest.approx(0.5 * expected, rel=1e-4)
    assert loss.total.item() == pytest.approx(plain.total.item() + more)
    assert loss.count == plain.count


def test_smoothing_spreads_a_share_of_the_probability():
    _, loss = loss_with(Terms(1.0, label_smoothing=0.1))
    expected = 0.0
    for answer in ANSWERS:
        rows = log_shares(tiny("llama"), (*answer.prompt, *answer.tokens))
        for place, token in enumerate(answer.tokens, start=len(answer.prompt) - 1):
            own, mean = rows[place, token].item(), rows[place].mean().item()
            expected -= 0.9 * own + 0.1 * mean
    assert loss.parts["ar_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_an_anchor_is_the_divergence_from_the_target_on_prompts_and_answers():
    target = tiny_model("llama", seed=3)
    packed, loss = loss_with(Terms(1.0, anchor_weight=2.0), target)
    _, plain = loss_with(Terms(1.0))
    rows = []
    for answer in ANSWERS:
        ids = (*answer.prompt, *answer.tokens)
        p, q = log_shares(target, ids), log_shares(tiny("llama"), ids)
        rows.append((p.exp() * (p - q)).sum(-1))
    expected = torch.cat(rows).mean().item() * int(packed.answers.sum())
    assert loss.parts["anchor_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert loss.total.item() == pytest.approx(plain.total.item() + 2 * expected, rel=1e-5)
    assert not any(part.requires_grad for part in loss.parts.values())


def test_a_model_is_at_its_anchor_when_it_begins():
    _, loss = loss_with(Terms(1.0, anchor_weight=1.0), tiny("llama"))
    assert loss.parts["anchor_loss"].item() == pytest.approx(0, abs=1e-5)


def test_a_target_is_never_trained():
    target = tiny_model("llama", seed=3)
    _, loss = loss_with(Terms(1.0, anchor_weight=1.0), target)
    loss.total.backward()
    tiny("llama").zero_grad()
    assert all(weight.grad is None for weight in target.parameters())


def test_a_loss_over_counted_rows_weighs_more_as_they_get_fewer():
    packed, loss = loss_with(Terms(1.0, counted=True))
    _, plain = loss_with(Terms(1.0))
    counted = sum(int(differs(packed, copy).sum()) for copy in range(2)) / 2
    share = int(packed.answers.sum()) / counted
    assert share > 1
    expected = plain.parts["consistency_loss"].item() * share
    assert loss.parts["consistency_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.parts["ar_loss"].item() == plain.parts["ar_loss"].item()


def test_a_block_alone_counts_as_the_mean_of_its_rows():
    """As in the original: whatever share of its answer the block is."""
    states, answer = replace(PLAIN, form="single", terms=Terms(0.0, counted=True)), texts(1)[0]
    seen = 0
    for seed in range(12):
        batch = make_batch([answer], states, random.Random(seed))
        rows = differs(batch.packed, 0)
        if not rows.any():
            continue
        seen += 1
        logits = logits_apart(tiny("llama"), batch.packed)
        pair = PackedLogits(batch.packed, logits, 1).pair(0)
        mean = pair.divergence("forward_kl").mean().item()
        loss = cllm_loss(tiny("llama"), batch, states)
        assert loss.parts["consistency_loss"].item() / loss.count == pytest.approx(mean, rel=1e-5)
    assert seen > 3
