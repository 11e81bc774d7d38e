"""Choosing tokens: greedily, and from the distribution with noise that belongs to a place."""

import json

import pytest
import torch
from families import TASK, cli, rows
from scipy.stats import chisquare

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.sampling import Chooser, log_probabilities, probabilities
from cllm_bench.report.statistics import expected_best

CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5], [0.0, 0.0, 1.0, 0.5, -2.0]])


def test_greedy_is_the_argmax():
    assert Chooser(Sampling(), CPU)(LOGITS, 0).tolist() == [0, 2]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_draws_have_the_model_s_distribution(seed, top_p):
    sampling = Sampling(temperature=0.8, top_p=top_p, seed=seed)
    choose = Chooser(sampling, CPU)
    draws = torch.stack([choose(LOGITS, place) for place in range(0, 12000, 2)])
    for row in range(2):
        expected = probabilities(LOGITS, sampling)[row].double()
        counts = torch.bincount(draws[:, row], minlength=5).double()
        inside = expected > 0
        assert counts[~inside].sum() == 0
        expected = expected[inside] / expected[inside].sum() * len(draws)
        assert chisquare(counts[inside].numpy(), expected.numpy()).pvalue > 1e-3


def test_the_noise_belongs_to_the_place_and_not_to_the_pass():
    sampling = Sampling(temperature=1.5, seed=3)
    logits = torch.randn(90, 7, generator=torch.Generator().manual_seed(0))
    whole = Chooser(sampling, CPU)(logits, 0)
    choose = Chooser(sampling, CPU)
    one_by_one = [int(choose(logits[place : place + 1], place)) for place in range(90)]
    assert one_by_one == whole.tolist()
    assert Chooser(sampling, CPU)(logits[50:], 50).tolist() == whole[50:].tolist()
    other = Chooser(Sampling(temperature=1.5, seed=4), CPU)(logits, 0)
    assert other.tolist() != whole.tolist()


def test_rows_of_a_tree_share_the_noise_of_their_depth():
    sampling = Sampling(temperature=1.0, seed=1)
    choose = Chooser(sampling, CPU)
    logits = LOGITS[:1].expand(4, -1)
    found = choose.scores(logits, 30, torch.tensor([0, 1, 1, 2]))
    chain = choose.scores(logits[:3], 30)
    assert torch.equal(found[[0, 1, 3]], chain)
    assert torch.equal(found[1], found[2])


def test_the_nucleus():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    kept = {
        p: (log_probabilities(logits, Sampling(1.0, p)) > -torch.inf).sum()
        for p in (0.01, 0.5, 0.51, 0.9, 1.0)
    }
    assert kept == {0.01: 1, 0.5: 1, 0.51: 2, 0.9: 3, 1.0: 4}
    assert probabilities(logits, Sampling(1.0, 0.51))[0, :2].tolist() == pytest.approx(
        [2 / 3, 1 / 3]
    )
    with pytest.raises(ValueError, match="temperature 0 has no distribution"):
        probabilities(logits, Sampling())


def test_a_sampled_run_is_exact_reproducible_and_says_so(monkeypatch, tmp_path, command):
    drawn = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        out = tmp_path / name
        arguments = ["--data", tmp_path, "--temperature", 0.7, "--top-p", 0.9]
        arguments += ["--repeats", 2, "--limit", 3]
        methods = ["--method", "jacobi", "--method", "jacobi:checkpoint=other,refill=sliding"]
        assert (
            cli(monkeypatch, *command, *arguments, *methods, "--seed", seed, "--output", out) == 0
        )
        drawn[name] = {
            (row["method"], row["sample"], row["repeat"]): row["token_ids"] for row in rows(out)
        }
        for each in json.loads((out / "summary.json").read_text()):
            assert each["exact_match"] == 1.0
    assert drawn["one"] == drawn["again"]
    assert drawn["one"] != drawn["other"]
    assert "sampled at temperature 0.7, top-p 0.9" in (tmp_path / "one" / "table.md").read_text()


GREEDY_ONLY = """
from dataclasses import dataclass
from cllm_bench_methods.ar import AutoregressiveDecoder

@dataclass(frozen=True)
class Mine:
    exactness = "exact"
    checkpoint: str = "target"

    def bind(self, family):
        return AutoregressiveDecoder(family.session(self.checkpoint))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "mine", "--temperature", 1], "method 'mine' decodes greedily only"),
        (["--method", "ar", "--temperature", -1], "--temperature must be 0 (greedy) or above"),
        (["--method", "ar", "--top-p", 0.5], "--top-p 0.5 needs a --temperature above 0"),
        (["--method", "ar", "--temperature", 1, "--top-p", 0], "--top-p must be above 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(monkeypatch, tmp_path, tiny, capsys, arguments, message):
    plugin = tmp_path / "mine.py"
    plugin.write_text(GREEDY_ONLY)
    asked = [
        "run",
        "--model",
        tiny[0],
        "--plugin",
        plugin,
        "--plugin",
        tiny[1],
        "--task",
        "counting",
    ]
    assert cli(monkeypatch, *asked, "--output", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_draw_of_a_question_has_a_seed_of_its_own(monkeypatch, tmp_path, tiny, capsys):
    plugin, out = tmp_path / "drawn.py", tmp_path / "out"
    settings = "    count: int = 8\n    draws: int = 1\n    best_of: int = 1\n"
    text = TASK.replace("class Counting", "class Drawn").replace("    count: int = 8\n", settings)
    plugin.write_text(text)
    task = "drawn:count=6,draws=4,best_of=2"
    asked = ["run", "--model", tiny[0], "--plugin", plugin, "--task", task, "--method", "ar"]
    asked += ["--threads", 1, "--no-noise-floor", "--limit", 5, "--repeats", 2]
    asked += ["--output", out, "--data", tmp_path]
    assert cli(monkeypatch, *asked) == 2
    assert "draws=4 are all the same when greedy" in capsys.readouterr().err
    assert not out.exists()
    assert cli(monkeypatch, *asked, "--temperature", 1.5) == 0
    graded = {row["sample"]: row for row in rows(out) if row["repeat"] == 0}
    assert list(graded) == [f"{i}/draw-{draw}" for i in range(5) for draw in range(1, 5)]
    for i in range(5):
        assert len({str(graded[f"{i}/draw-{draw}"]["token_ids"]) for draw in range(1, 5)}) == 4
    (planned,) = json.loads((out / "manifest.json").read_text())["tasks"]
    assert (planned["samples"], planned["replies"], planned["best_of"]) == (5, 20, 2)
    (found,) = json.loads((out / "summary.json").read_text())
    scores = [[graded[f"{i}/draw-{draw}"]["score"] for draw in range(1, 5)] for i in range(5)]
    assert 0 < sum(map(sum, scores)) < 20
    assert found["score"] == pytest.approx(sum(expected_best(own, 2) for own in scores) / 5)
