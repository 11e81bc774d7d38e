import pytest
import torch
from conftest import tiny_model

from cllm_bench.contracts import Sampling
from cllm_bench.repetition import is_repetitive
from cllm_bench.sampling import Chooser
from cllm_bench.session import Session
from cllm_bench.verdicts import first_difference, verdict

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
