"""Which path of Medusa's tree stands: the matching one, or the longest that is typical."""

import math

import pytest
import torch
from medusa_decoders import DEEP, LIMIT, decode, medusa

from cllm_bench.contracts import Sampling
from cllm_bench.engine.session import Session
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.medusa import method as medusa_module
from cllm_bench_methods.medusa.method import (
    Medusa,
    likeliest_row,
    likely_scores,
    matching_row,
)
from cllm_bench_methods.medusa.tree import Layout, Tree


def test_the_matching_path_by_hand():
    """Rows: newest, 0, 0.0, 0.1, 1, 1.0; the model chooses 7 behind the newest."""
    layout = Layout(Tree.parse("0.0;0.1;1.0"), 2, torch.device("cpu"))
    fed = [3, 7, 5, 6, 8, 5]
    assert matching_row(layout, fed, [7, 6, 1, 1, 5, 1]) == 3
    assert matching_row(layout, fed, [8, 6, 1, 1, 5, 1]) == 5
    assert matching_row(layout, fed, [7, 9, 1, 1, 5, 1]) == 1
    assert matching_row(layout, fed, [9, 6, 1, 1, 5, 1]) == 0


def test_typical_acceptance_by_the_formula():
    """Behind the newest the model is unsure, so little is asked; behind row 1 it is sure."""
    unsure = [0.3, 0.3, 0.2, 0.1, 0.06, 0.04]
    sure = [0.88, 0.08, 0.01, 0.01, 0.01, 0.01]
    logs = [math.log(unsure[4]), math.log(sure[1]), math.log(unsure[5])]
    behind = [-sum(p * math.log(p) for p in row) for row in (unsure, sure, unsure)]
    assert 0.3 * math.exp(-behind[0]) == pytest.approx(0.0623, abs=1e-4)  # below epsilon
    # 0.06 is not above 0.0623; 0.08 is not above epsilon; nor is 0.04.
    assert likely_scores(logs, behind, epsilon=0.09, alpha=0.3) == [-math.inf] * 3
    assert likely_scores(logs, behind, epsilon=0.05, alpha=0.3) == [*logs[:2], -math.inf]
    assert likely_scores(logs, behind, epsilon=0.09, alpha=0.27) == [logs[0], *[-math.inf] * 2]


def test_typical_acceptance_judges_each_guess_behind_its_parent(llama):
    """The literal way: each path by a pass of its own."""
    tree = Tree.parse("0.0;0.1;1.0")
    layout = Layout(tree, 2, torch.device("cpu"))
    guesses = torch.tensor([5, 6, 7, 8, 9])  # 0, 0.0, 0.1, 1, 1.0
    session = Session(llama)
    session.prefill(torch.tensor([1, 2]))
    ids = torch.cat([torch.tensor([3]), guesses])
    logits = session.forward(ids, depth=layout.depth, mask=layout.mask).logits
    seen = []

    def scores(logs, entropies, epsilon, alpha):
        seen.extend(zip(logs, entropies, strict=True))
        return likely_scores(logs, entropies, epsilon, alpha)

    decoder = medusa(llama, "0.0;0.1;1.0", acceptance="typical")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medusa_module, "likely_scores", scores)
        decoder._likely_row(layout, guesses, logits, Sampling())
    paths = [(5,), (5, 6), (5, 7), (8,), (8, 9)]
    for (log, entropy), (*before, guess) in zip(seen, paths, strict=True):
        with torch.no_grad():
            p = llama(input_ids=torch.tensor([[1, 2, 3, *before]])).logits[0, -1].softmax(-1)
        assert log == pytest.approx(float(p[guess].log()), abs=1e-3)
        assert entropy == pytest.approx(float(-(p * p.log()).sum()), abs=1e-3)


def test_the_longest_path_wins_and_among_equals_the_likeliest():
    layout = Layout(Tree.parse("0.0;0.1;1.0;2"), 3, torch.device("cpu"))
    no = -math.inf
    #                            0    0.0   0.1   1    1.0   2
    assert likeliest_row(layout, [-1.0, -2.0, -1.0, -1.5, -1.0, -0.1]) == 3
    assert likeliest_row(layout, [-1.0, -2.0, no, -0.5, -0.5, -0.1]) == 5
    assert likeliest_row(layout, [-1.0, no, no, no, -0.5, -0.1]) == 6
    assert likeliest_row(layout, [no, -0.1, -0.1, no, -0.5, no]) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_typical_acceptance_that_asks_for_everything_or_nothing(llama, prompts, temperature):
    settings = Medusa(acceptance="typical")
    assert (settings.exactness, settings.sampled) == ("lossy", "lossy")
    strict = medusa(llama, DEEP, acceptance="typical", epsilon=1.0, alpha=1e9)
    loose = medusa(llama, DEEP, acceptance="typical", epsilon=1e-30, alpha=1e-30)
    plain = AutoregressiveDecoder(Session(llama))
    for seed, prompt in enumerate(prompts[:6]):
        sampling = Sampling(temperature, seed=seed)
        wanted = decode(plain, prompt, sampling=sampling).token_ids
        found = decode(strict, prompt, sampling=sampling)
        assert found.token_ids == wanted
        assert set(found.accept_lengths) == {1}
        found = decode(loose, prompt, sampling=sampling)
        assert set(found.accept_lengths) == {5}
        # Behind the accepted path stands what the model itself chooses.
        text = torch.cat([prompt, torch.tensor(found.token_ids)])
        with torch.no_grad():
            chosen = llama(input_ids=text[None]).logits[0].argmax(-1).tolist()
        ends = range(5, LIMIT, 5)
        right = [chosen[len(prompt) + end - 1] == found.token_ids[end] for end in ends]
        assert all(right) or temperature
