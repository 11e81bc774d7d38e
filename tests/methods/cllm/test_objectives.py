"""The consistency objectives against their formulas, computed slowly: one plain pass for each term.

A literal pass has no mask, no cache and no padding: it reads [prefix | state] and nothing else.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from packed_answers import (
    FAMILIES,
    PLAIN,
    after,
    consistency,
    contexts,
    copy_of,
    gradient,
    texts,
    tiny,
)
from random_models import VOCABULARY

from cllm_bench.engine import attention
from cllm_bench_methods.cllm import packing
from cllm_bench_methods.cllm.batches import pack, run
from cllm_bench_methods.cllm.objectives import Local, Progressive
from cllm_bench_methods.cllm.packing import (
    PADDING,
    ar_loss,
    copy_rows,
    differs,
    logits_apart,
    logits_of,
    owned,
    visible,
)
from cllm_bench_methods.cllm.states import Answer

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
ONLINE = {"source": "online", "shift": True}
LOCAL = {"objective": Local(ahead=1)}
PROGRESSIVE = {"objective": Progressive(window=PLAIN.window)}
CASES = {
    "global": {},
    "global-online": ONLINE | {"copies": 4, "iterations": 2},
    "global-three": ONLINE | {"copies": 3, "iterations": 3},
    "global-uncached": ONLINE | {"copies": 3, "iterations": 3, "cached": False},
    "local": LOCAL | {"copies": 2, "iterations": 2},
    "local-three": LOCAL | {"copies": 3, "iterations": 3},
    "local-online": ONLINE | LOCAL | {"copies": 4, "iterations": 2, "guess": "vocab"},
    "progressive": PROGRESSIVE | {"copies": 2},
    "progressive-online": ONLINE
    | {"objective": Progressive(window=3), "copies": 2, "iterations": 2, "window": 3},
    "single": {"form": "single", "copies": 2},
    "single-local": ONLINE | LOCAL | {"form": "single", "copies": 2, "iterations": 2},
}


def literal_terms(model, packed, answers, states):
    """Every (weight, teacher's logits, student's logits) of the sum over i."""
    local = isinstance(states.objective, Local)
    chains = states.copies // states.iterations
    students = states.copies - chains if local else states.copies
    terms = []
    for number in range(students):
        for row, answer in enumerate(answers):
            held = contexts(packed, row, number)
            noisy = copy_of(packed, row, number)
            better = copy_of(packed, row, number + chains) if local else answer.tokens
            share = sum(end - start for start, end, used in held if used) / len(answer.tokens)
            for start, end, used in held:
                wrong = [i for i in range(start, end) if noisy[i] != answer.tokens[i]]
                if not used or not wrong:
                    continue
                prefix = answer.prompt + answer.tokens[:start]
                student = after(model, prefix, noisy[start:end])
                teacher = after(model, prefix, better[start:end]).detach()
                for i in range(wrong[0], min(end, len(answer.tokens) - 1)):
                    terms.append((1 / share / students, teacher[i - start], student[i - start]))
    return terms


def distance(kind, teacher, student):
    p, q = teacher.double().log_softmax(-1).exp(), student.double().log_softmax(-1).exp()

    def kl(a, b):
        return (a * (a.log() - b.log())).sum()

    if kind == "jsd":
        return kl(p, (p + q) / 2) / 2 + kl(q, (p + q) / 2) / 2
    return kl(p, q) if kind == "forward_kl" else kl(q, p)


def literal_ar(model, answers):
    total = 0.0
    for answer in answers:
        logits = after(model, (), answer.prompt + answer.tokens).double().log_softmax(-1)
        for index, token in enumerate(answer.tokens):
            total = total - logits[len(answer.prompt) + index - 1, token]
    return total


def assert_same(loss, literal, model):
    assert loss.item() == pytest.approx(literal.item(), rel=1e-5)
    expected, found = gradient(literal, model), gradient(loss, model)
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("kernel", ["sdpa", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_formulas(family, case, kernel):
    model, states = tiny(family, kernel), replace(PLAIN, **CASES[case])
    answers = texts(states.copies)
    logits, packed = run(model, pack(answers, states, random.Random(0)), states)
    terms = literal_terms(model, packed, answers, states)
    teaching = states.chains if isinstance(states.objective, Local) else 0
    counted = [int(differs(packed, number).sum()) for number in range(packed.copies - teaching)]
    assert sum(counted) == len(terms) > 0
    for kind in DIVERGENCES:
        literal = sum(weight * distance(kind, p, q) for weight, p, q in terms)
        assert_same(consistency(logits, packed, states, kind), literal, model)
    assert_same(ar_loss(logits, packed), literal_ar(model, answers), model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_kernel_computes_no_score_between_copies(family, monkeypatch):
    model = tiny(family, "plain")
    packed = pack(texts(3), replace(PLAIN, copies=3), random.Random(0))
    widths, whole = [], attention._packed

    def watched(query, key, value, mask, packing):
        widths.append((query.shape[2], packing))
        return whole(query, key, value, mask, packing)

    monkeypatch.setattr(attention, "_packed", watched)
    monkeypatch.setattr(torch.Tensor, "softmax", softmax_up_to(packed.clean + packed.span))
    with torch.no_grad():
        logits_of(model, packed)
    layers = model.config.get_text_config().num_hidden_layers
    assert widths == [(packed.ids.shape[1], (packed.clean, packed.span))] * layers


def softmax_up_to(columns, softmax=torch.Tensor.softmax):
    def limited(scores, *args, **keywords):
        assert scores.shape[-1] <= columns
        return softmax(scores, *args, **keywords)

    return limited


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copies", [1, 3])
def test_one_block_of_a_copy_reads_the_same_packed_and_apart(family, copies):
    states = replace(PLAIN, form="single", copies=copies)
    model = tiny(family)
    packed = pack(texts(copies), states, random.Random(0))
    with torch.no_grad():
        together, apart = logits_of(model, packed), logits_apart(model, packed)
    for number in range(copies):
        held = owned(packed, number)
        assert held.sum(1).tolist() <= packed.answers.tolist()
        rows = [copy_rows(logits, packed, number)[held] for logits in (together, apart)]
        torch.testing.assert_close(*rows, rtol=1e-4, atol=1e-4)
    losses = [consistency(each, packed, states, "jsd") for each in (together, apart)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)


def test_single_blocks_give_the_packed_loss_on_average():
    """A block is drawn as often as its length says, so that it may stand for as many tokens."""
    model, answers = tiny("llama"), texts(1, [(3, 10)], steps=1)
    single = replace(PLAIN, form="single")
    losses, counts = {}, Counter()
    for seed in range(1000):
        packed = pack(answers, single, random.Random(seed))
        chosen = int(owned(packed, 0)[0].nonzero()[0])
        counts[chosen] += 1
        if chosen not in losses:
            logits = logits_apart(model, packed)
            losses[chosen] = consistency(logits, packed, single).item()
    lengths = {0: 4, 4: 4, 8: 2}
    assert {start: counts[start] / 1000 for start in counts} == {
        start: pytest.approx(length / 10, abs=0.05) for start, length in lengths.items()
    }
    packed = pack(answers, PLAIN, random.Random(0))
    whole = consistency(logits_of(model, packed), packed, PLAIN).item()
    mean = sum(losses[start] * length / 10 for start, length in lengths.items())
    assert mean == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("case", ["global", "local", "single"])
def test_a_batch_is_the_sum_of_its_answers(case):
    states = replace(PLAIN, **CASES[case])
    model, answers = tiny("llama"), texts(states.copies)
    whole = pack(answers, states, random.Random(0))

    def losses(packed):
        logits, _ = run(model, packed, states)
        return consistency(logits, packed, states, "jsd"), ar_loss(logits, packed)

    total = torch.zeros(2)
    for row in range(len(answers)):
        prompt, length = int(whole.prompts[row]), int(whole.answers[row])
        columns = [*range(prompt + length)]
        for number in range(states.copies):
            start = whole.clean + number * whole.span
            columns += range(start, start + length)
        names = ("ids", "positions", "owner", "begins")
        parts = {name: getattr(whole, name)[row : row + 1, columns] for name in names}
        lengths = {n: getattr(whole, n)[row : row + 1] for n in ("prompts", "answers")}
        alone = replace(whole, **parts, **lengths, clean=prompt + length, span=length)
        total += torch.stack(losses(alone)).detach()
    torch.testing.assert_close(torch.stack(losses(whole)).detach(), total, rtol=1e-5, atol=0)


def test_rows_see_what_the_drawing_shows():
    lines = [line.split() for line in (packing.__doc__ or "").splitlines()]
    drawn = [[mark for mark in line if mark in ("x", ".")] for line in lines]
    drawn = [row for row in drawn if len(row) == 10]
    answer = Answer((7, 8), (1, 2, 3, 4), (((1, 0), (1, 2)), ((3, 0), (3, 4))), None, 1)
    packed = pack([answer], replace(PLAIN, block_size=2), random.Random(0))
    used = packed.owner[0] != PADDING
    seen = visible(packed)[0][used][:, used]
    assert [["x" if sees else "." for sees in row] for row in seen] == drawn


@pytest.mark.parametrize("case", ["global-online", "local", "progressive", "single"])
def test_visible_is_the_rule_of_the_drawing(case):
    states = replace(PLAIN, **CASES[case])
    answers = texts(states.copies)
    packed = pack(answers, states, random.Random(3))
    expected = torch.zeros_like(visible(packed))
    for row, answer in enumerate(answers):
        prompt, length = len(answer.prompt), len(answer.tokens)
        for i in range(packed.ids.shape[1]):
            expected[row, i, i] = True
            if i < prompt + length:
                expected[row, i, : i + 1] = True
        for number in range(states.copies):
            column = packed.clean + number * packed.span
            for start, end, used in contexts(packed, row, number):
                for i in range(start, end) if used else ():
                    expected[row, column + i, : prompt + start] = True
                    expected[row, column + i, column + start : column + i + 1] = True
    assert torch.equal(visible(packed), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "objective", [PLAIN.objective, *PROGRESSIVE.values()], ids=["global", "progressive"]
)
def test_a_changed_token_reaches_the_rows_that_see_it_and_no_other(family, objective):
    states = replace(PLAIN, objective=objective, copies=2)
    packed = pack(texts(2, [(3, 10)]), states, random.Random(0))
    width = packed.ids.shape[1]
    batch = packed.ids.repeat(width + 1, 1)  # in row j of these, token j is another
    batch[range(width), range(width)] = (batch[-1] + 1) % VOCABULARY
    names = ("positions", "owner", "begins", "prompts", "answers")
    many = {
        name: getattr(packed, name).expand(width + 1, *[-1] * (getattr(packed, name).ndim - 1))
        for name in names
    }
    with torch.no_grad():
        logits = logits_of(tiny(family), replace(packed, ids=batch, **many))
    changed = (logits[:-1] - logits[-1:]).abs().amax(-1) > 1e-4  # (changed token, row)
    kept = logits.shape[1]
    assert torch.equal(changed.T, visible(packed)[0, -kept:])
