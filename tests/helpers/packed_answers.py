"""Packed answers of tiny models, and plain passes to compare with."""

import random
from dataclasses import replace
from functools import cache

import torch
from random_models import VOCABULARY, tiny_model

from cllm_bench.engine import attention
from cllm_bench_methods.cllm.comparison import PackedLogits
from cllm_bench_methods.cllm.objectives import Global
from cllm_bench_methods.cllm.states import Answer, States, Terms

SIZE = 4


SHAPES = [(1, 9), (4, 3), (9, 4), (2, 1), (6, 6)]  # prompt, answer


FAMILIES = ("llama", "qwen2", "gpt2", "gpt-neox")


PLAIN = States(
    block_size=SIZE,
    source="recorded",
    copies=1,
    iterations=1,
    guess="prompt",
    pad_id=0,
    vocabulary=VOCABULARY,
    refill="block",
    ahead=0,
    objective=Global(),
    form="packed",
    shift=False,
    window=2,
    terms=Terms(ar_weight=1.0),
    cached=True,
)


@cache
def tiny(kind, kernel="sdpa"):
    attention.register()
    model = tiny_model(kind)
    model.set_attn_implementation(kernel)
    return model


def texts(copies, shapes=SHAPES, steps=3, seed=0):
    """Answers whose states hold right tokens behind wrong ones; some states are all right."""
    rng = random.Random(seed)

    def drawn(count):
        return tuple(rng.randrange(VOCABULARY) for _ in range(count))

    def noisy(fixed):
        return fixed[:1] + tuple(rng.choice((t, rng.randrange(VOCABULARY))) for t in fixed[1:])

    def trajectory(fixed):
        return (*(noisy(fixed) for _ in range(steps)), fixed)

    found = []
    for prompt, length in shapes:
        fixed = drawn(length)
        blocks = [fixed[start : start + SIZE] for start in range(0, length, SIZE)]
        found.append(Answer(drawn(prompt), fixed, tuple(map(trajectory, blocks)), None, copies))
    return found


def copy_of(packed, row, number):
    """The noisy tokens of one answer, as the layout has them."""
    start = packed.clean + number * packed.span
    return packed.ids[row, start : start + int(packed.answers[row])].tolist()


def contexts(packed, row, number):
    """Where the noisy contexts of one copy begin and end in its answer, and whether it is used."""
    start = packed.clean + number * packed.span
    length, prompt = int(packed.answers[row]), int(packed.prompts[row])
    begins = (packed.begins[row, start : start + length] - prompt).tolist()
    heads = sorted(set(begins))
    used = (packed.owner[row, start : start + length] == number).tolist()
    return [(a, b, used[a]) for a, b in zip(heads, [*heads[1:], length], strict=True)]


def after(model, context, tokens):
    """Logits behind each of the tokens."""
    ids = torch.tensor([[*context, *tokens]])
    return model(input_ids=ids, use_cache=False).logits[0, len(context) :]


def consistency(logits, packed, states, kind=None):
    """The loss of the objective, with another divergence if asked for."""
    objective = replace(states.objective, **({"divergence": kind} if kind else {}))
    return objective.losses(PackedLogits(packed, logits, states.chains))["consistency_loss"]


def gradient(loss, model):
    parts = torch.autograd.grad(
        loss, list(model.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts]).double()
