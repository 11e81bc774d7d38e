import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from random_models import tiny_model

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.exactness import first_difference, verdict
from cllm_bench.decoding.repetition import is_repetitive
from cllm_bench.decoding.sampling import Chooser
from cllm_bench.engine.session import Session

PROMPT = torch.tensor([1, 2, 3])
GREEDY = Sampling()


def no_session():
    raise AssertionError("equal outputs need no model")


def test_equal_outputs_are_exact():
    assert verdict([4, 5], [4, 5], PROMPT, GREEDY, no_session) == ("exact", None)


def test_a_wrong_token_is_a_mismatch(llama):
    best = int(Session(llama).prefill(PROMPT).logits.argmax())
    wrong = (best + 1) % 61
    found = verdict([wrong, 5], [best, 5], PROMPT, GREEDY, lambda: Session(llama))
    assert found == ("mismatch", 0)


def test_a_shorter_output_is_a_mismatch(llama):
    assert verdict([4], [4, 5], PROMPT, GREEDY, lambda: Session(llama)) == ("mismatch", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_tokens_that_rounding_cannot_tell_apart_are_a_tie(dtype):
    model = tiny_model("llama").to(dtype)
    forced = torch.tensor([1, 2, 3, 7])
    best, second, third = Session(model).prefill(forced).logits[-1].float().topk(3).indices.tolist()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[best] *= 2  # far ahead of the third, in bfloat16 too
        head[second] = head[best]  # equal rows: equal logits, up to nothing at all
    found = verdict([7, second], [7, best], PROMPT, GREEDY, lambda: Session(model))
    assert found == ("tie", 1)
    planted = verdict([7, third], [7, best], PROMPT, GREEDY, lambda: Session(model))
    assert planted == ("mismatch", 1)


def test_a_drawn_token_is_judged_with_its_noise(llama):
    """The likeliest token is no tie with the one drawn: the noise told them apart."""
    sampling = Sampling(temperature=3.0, seed=5)
    logits = Session(llama).prefill(torch.tensor([1, 2, 3, 7])).logits
    drawn = int(Chooser(sampling, logits.device)(logits, 1))
    best = int(logits.argmax())
    assert drawn != best
    found = verdict([7, best], [7, drawn], PROMPT, sampling, lambda: Session(llama))
    assert found == ("mismatch", 1)


def judged(logits, tokens, sampling=GREEDY):
    """Compare two replies of one token each, which a model of these logits continues."""
    output = SimpleNamespace(logits=logits[None])
    session = SimpleNamespace(prefill=lambda _: output)
    one, other = ([token] for token in tokens)
    return verdict(one, other, PROMPT, sampling, lambda: session).kind


def test_three_tokens_that_rounding_cannot_tell_apart_are_ties():
    """A third pass may rank any of them first."""
    logits = torch.tensor([10.0, 9.9375, 9.875, 9.5, -3.0], dtype=torch.bfloat16)
    for pair in ([0, 1], [0, 2], [1, 2], [2, 1]):
        assert judged(logits, pair) == "tie"
    for pair in ([0, 3], [3, 2], [4, 0]):
        assert judged(logits, pair) == "mismatch"
    assert judged(logits.float(), [0, 1]) == "mismatch"  # no rounding of float32 is so large
    ruled_out = torch.cat([logits, logits.new_tensor([-torch.inf])])
    assert [judged(ruled_out, pair) for pair in ([0, 2], [3, 0], [5, 0])] == [
        "tie",
        "mismatch",
        "mismatch",
    ]


NUCLEUS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def preferring(token, top_p):
    """Return a sampling whose noise ranks a token first, and the first one second."""
    for seed in range(1000):
        scores = Chooser(Sampling(1.0, 1.0, seed), NUCLEUS.device).scores(NUCLEUS[None], 0)[0]
        if scores.topk(2).indices.tolist() == [token, 0]:
            return Sampling(1.0, top_p, seed)
    raise AssertionError("no such seed")


@pytest.mark.parametrize(
    ("token", "top_p", "kind"),
    [
        (2, 0.75 - 1e-8, "tie"),  # the two before it just reach it
        (2, 0.75 + 1e-8, "tie"),
        (2, 0.74, "mismatch"),  # outside by far
        (2, 0.76, "mismatch"),  # inside by far: the other one is wrong
        (1, 0.75, "mismatch"),
        (3, 0.75, "mismatch"),
    ],
)
def test_a_token_at_the_border_of_the_nucleus_is_in_it_or_not(token, top_p, kind):
    sampling = preferring(token, top_p)
    assert judged(NUCLEUS, [token, 0], sampling) == kind
    assert judged(NUCLEUS, [0, token], sampling) == kind


def test_tokens_of_one_probability_may_be_swapped_at_the_border():
    """Either of the two may be the one that is still in the nucleus."""
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    for seed in range(40):
        sampling = Sampling(1.0, 0.6, seed)
        scores = Chooser(replace(sampling, top_p=1.0), logits.device).scores(logits[None], 0)[0]
        best = int(scores[:3].argmax())
        if best > 0:
            assert judged(logits, [best, 0], sampling) == "tie"
        assert judged(logits, [3, 0], sampling) == "mismatch"
    cold = Sampling(1e-9, 0.6)  # so cold that the tolerance is wide
    assert judged(torch.tensor([10.0, 8.0, 1.0]), [0, 1], cold) == "mismatch"
    likeliest = torch.tensor([0.4, 0.4, 0.2]).log()  # one of two is the whole nucleus
    assert judged(likeliest, [0, 1], Sampling(1.0, 0.3)) == "tie"
    assert judged(likeliest, [0, 2], Sampling(1.0, 0.3)) == "mismatch"


def test_first_difference():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 3], [1, 2]) == 1
    assert first_difference([], [1]) == 0


@pytest.mark.parametrize(
    ("tokens", "repetitive"),
    [
        ([], False),
        (list(range(100)), False),
        ([1] * 9, False),
        ([5, *[1] * 10, 6], True),
        ([1, 2] * 11, False),
        ([1, 2] * 12, True),
        ([9, 8, *[1, 2, 3, 4, 5, 6, 7] * 4], True),
        ([9, 8, *[1, 2, 3, 4, 5, 6, 7] * 3, 9, 9], False),
    ],
)
def test_repetition(tokens, repetitive):
    assert is_repetitive(tokens) is repetitive


def test_a_wrong_token_is_never_taken_for_a_tie():
    """bfloat16: twin embeddings tie at every step; any other token is a mismatch."""
    model = tiny_model("llama").to(torch.bfloat16)
    twins = (7, 8)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[twins[0]] *= 4  # so that they are often the likeliest
        weight[twins[1]] = weight[twins[0]]
    session = Session(model)
    generator = random.Random(0)
    ties = mismatches = 0
    for seed in range(60):
        prompt = torch.tensor([generator.randrange(9, 60) for _ in range(1 + seed % 9)])
        logits = session.prefill(prompt).logits[0].float()
        best = int(logits.argmax())
        planted = (best + 1 + generator.randrange(40)) % len(logits)

        def compare(token, expected=best, prompt=prompt):
            return verdict((token,), (expected,), prompt, Sampling(), lambda: Session(model)).kind

        assert compare(best) == "exact"
        if best in twins:
            other = twins[best == twins[0]]
            assert compare(other) == "tie"
            ties += 1
        gap = float(logits[best] - logits[planted])
        if planted != best and planted not in twins and gap > 0.5:
            assert compare(planted) == "mismatch"
            mismatches += 1
    assert min(ties, mismatches) >= 10
