"""Distilling a draft: its layers, its loss, and what it is watched by."""

import pytest
import torch
from greedy_decoding import decode
from noisy_families import noisy, speculative
from random_models import KINDS, tiny_model

from cllm_bench_methods.recipes.examples import Example, collate
from cllm_bench_methods.speculative.distillation import (
    Distillation,
    acceptance,
    spread,
    with_layers,
)


@pytest.mark.parametrize("chosen", [[0], [1, 3], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_is_the_target_without_some_layers(kind, chosen):
    depth = {"gpt2": "n_layer"}.get(kind, "num_hidden_layers")
    deep = tiny_model(kind, **{depth: 4})
    draft = with_layers(deep, chosen)
    assert draft.config.num_hidden_layers == len(chosen)
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.no_grad():
        found = draft(input_ids=ids, use_cache=False).logits
        name = {"gpt2": "transformer.h", "gpt-neox": "gpt_neox.layers"}.get(kind, "model.layers")
        layers = deep.get_submodule(name)
        deep.set_submodule(name, torch.nn.ModuleList([layers[number] for number in chosen]))
        deep.config.num_hidden_layers = len(chosen)
        assert torch.equal(found, deep(input_ids=ids, use_cache=False).logits)


def test_layers_evenly_spread():
    assert [spread(count, 8) for count in (1, 2, 3, 8)] == [[0], [0, 7], [0, 4, 7], [*range(8)]]


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@torch.no_grad()
def test_the_loss_is_that_of_each_answer_alone(llama, prompts, kind):
    draft = noisy(llama)
    aim = Distillation(llama, kind, 0.5)
    examples = [Example(p.tolist(), p.flip(0).tolist()) for p in prompts[2:6]]
    whole = aim.loss(draft, collate(examples))
    apart = [aim.loss(draft, collate([example])) for example in examples]
    assert whole.count == sum(len(example.answer) for example in examples)
    assert float(whole.total) == pytest.approx(sum(float(each.total) for each in apart), rel=1e-4)
    prompt, answer = examples[0]
    ids = torch.tensor([prompt + answer])
    p, q = (m(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for m in (llama, draft))
    middle = ((p.exp() + q.exp()) / 2).log()
    divergences = {
        "forward_kl": (p.exp() * (p - q)).sum(),
        "reverse_kl": (q.exp() * (q - p)).sum(),
        "jsd": (p.exp() * (p - middle)).sum() / 2 + (q.exp() * (q - middle)).sum() / 2,
    }
    parts = apart[0].parts
    assert float(parts["divergence"]) == pytest.approx(float(divergences[kind]), rel=1e-4)
    ce_loss = -q.gather(1, torch.tensor(answer)[:, None]).sum()
    assert float(parts["ce_loss"]) == pytest.approx(float(ce_loss), rel=1e-4)


@pytest.mark.parametrize("limit", [5, 12])
@torch.no_grad()
def test_what_is_watched_is_what_decoding_accepts(llama, prompts, limit):
    draft = noisy(llama)
    decoder = speculative(llama, draft, k=4)
    examples, passes = [], []
    for prompt in prompts:
        found = decode(decoder, prompt, limit)
        examples.append(Example(prompt.tolist(), list(found.token_ids)))
        passes += zip(found.accept_lengths, found.drafted, strict=True)
    watched = Distillation(llama, "forward_kl", 0.0).watch(draft, examples)
    tokens = sum(len(example.answer) - 1 for example in examples)
    assert watched["held_out_tokens_per_pass"] == tokens / len(passes)
    assert watched["held_out_divergence"] > 0


def test_acceptance_by_position():
    right = [[True, True, True, False, True], [False, False, True]]
    assert acceptance(right, 2) == {
        # Two guesses and one more token; one guess before the end. Nothing; one guess.
        "held_out_tokens_per_pass": 6 / 4,
        "held_out_acceptance_1": 3 / 4,
        "held_out_acceptance_2": 1 / 2,
    }
