"""The recipe `medusa`: short trainings to a family that runs."""

import json
import math

import pytest
import torch
from cllm_trainings import training_log
from families import cli, rows

from cllm_bench.contracts import Source, TrainingJob
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.training.objective import OptimiserSettings
from cllm_bench.training.recipe_runner import run_recipe
from cllm_bench.training.trainer import trained_state
from cllm_bench_methods.medusa.heads import read_heads
from cllm_bench_methods.medusa.method import Medusa
from cllm_bench_methods.medusa.recipe import MedusaRecipe, went_wrong

CPU = Runtime("cpu", "float32", threads=1)
SHORT = {
    "heads": 3,
    "nodes": 5,
    "questions": 12,
    "held_out": 4,
    "steps": 4,
    "joint_steps": 4,
    "tokens": 256,
    "evaluate_every": 2,
    "clean": False,
}


def arguments(tiny, output, *more, **settings):
    chosen = ",".join(f"{name}={value}" for name, value in {**SHORT, **settings}.items())
    family, plugin = tiny
    asked = ["train", f"medusa:{chosen}", "--model", family, "--plugin", plugin]
    common = ["--task", "counting:count=20", "--data", plugin.parent, "--output", output]
    return [*map(str, [*asked, *common, "--device", "cpu", "--threads", 1, *more])]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """What a short training leaves."""
    out = tmp_path_factory.mktemp("trained") / "family"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, *arguments(tiny, out)) == 0
    return out


def run(monkeypatch, tmp_path, tiny, model, *methods):
    asked = [
        "run",
        "--no-noise-floor",
        "--model",
        model,
        "--plugin",
        tiny[1],
        "--task",
        "counting:count=4",
    ]
    common = ["--data", tmp_path, "--output", tmp_path / "out", "--repeats", 1, "--threads", 1]
    chosen = [part for method in methods for part in ("--method", method)]
    assert cli(monkeypatch, *asked, *chosen, *common) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    return {each["method"]: each for each in found}


def test_it_leaves_a_family_that_runs_at_once(monkeypatch, tmp_path, tiny, trained):
    methods = ("medusa", "medusa:tree=chain", "medusa:nodes=3", "medusa:acceptance=typical")
    found = run(monkeypatch, tmp_path, tiny, trained, *methods)
    assert found.keys() == {"ar", *methods}
    assert {found[method]["exact_match"] for method in methods[:3]} == {1.0}
    assert {each["checkpoint"] for each in found.values()} == {"target"}
    drafted = {row["method"]: set(row["drafted"]) for row in rows(tmp_path / "out")}
    assert drafted["medusa:tree=chain"] == {3}
    assert drafted["medusa:nodes=3"] == {3}


def test_what_lies_beside_the_heads(tiny, trained):
    """No copy of the target, whose weights stay as they were."""
    folder = trained / "medusa"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "config.json",
        "medusa_lm_head.safetensors",
        "training_config.json",
        "training_log.jsonl",
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "medusa"
    assert (config["medusa_num_heads"], config["medusa_num_layers"]) == (3, 1)
    assert config["base_model_name_or_path"] == "target"
    measured = config["medusa"]
    worths = list(measured["worths"].values())
    assert worths == sorted(worths, reverse=True)
    assert [len(head) for head in measured["accuracies"]] == [10, 10, 10]
    for rank, worth in enumerate(measured["accuracies"][0]):
        assert measured["worths"].get(str(rank), 0.0) == worth
    lines = training_log(folder)
    assert [line["step"] for line in lines] == [0, 2, 4]
    held_out = {f"held_out_{n}" for n in ("head_0_loss", "head_2_loss", "tokens_per_pass")}
    assert held_out | {"head_0_loss", "loss", "gradient_norm"} <= lines[-1].keys()
    assert "ar_loss" not in lines[-1]
    kept = json.loads((folder / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["heads"] == 3
    assert kept["cleaning"]["kept_answers"] == 12
    names = trained_state(trained / "training" / "medusa" / "fit").keys()
    assert {name.partition(".")[0] for name in names} == {"0", "1", "2"}  # heads alone


@pytest.fixture(scope="module")
def job(tiny):
    """A job in this process."""
    from cllm_bench.core.registry import Registry

    task = Registry((tiny[1],)).tasks.get("counting")(count=20)
    found = task.samples(Source("folder", tiny[0], "train"))
    family = find_family(str(tiny[0]), runtime=CPU)

    def made(output, listen=lambda *_: None):
        return TrainingJob(family, {"counting": (task, found)}, output, listen)

    return made


def train(job, **settings):
    recipe = MedusaRecipe(**{**SHORT, **settings})
    return run_recipe("medusa", recipe, job, lambda _: None)


def test_shared_projections_leave_heads_without_them(job, tiny, tmp_path):
    out = train(job(tmp_path / "out"), projection="shared", precision="bf16")
    weights = read_heads(find_family(str(out)).checkpoint("medusa")).weights
    assert set(weights) == {f"{k}.0.linear.{n}" for k in range(3) for n in ("weight", "bias")}
    decoder = Medusa().bind(find_family(str(out), runtime=CPU))
    assert decoder.heads.projections is None
    assert decoder.extra_parameters == decoder.tree.depth * (32 * 32 + 32)


def test_joint_training_leaves_the_model_as_well(monkeypatch, job, tiny, tmp_path):
    out = train(job(tmp_path / "family"), train="joint", joint_learning_rate=1e-3)
    lines = training_log(out / "medusa")
    assert {"ar_loss", "head_0_loss", "held_out_ar_loss"} <= lines[-1].keys()
    config = json.loads((out / "medusa" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["medusa_num_heads"] == 3
    target = find_family(str(tiny[0]), runtime=CPU).model("target").state_dict()
    model = find_family(str(out), runtime=CPU).model("medusa").state_dict()
    assert any(not torch.equal(model[name], target[name].bfloat16()) for name in target)
    method = "medusa:checkpoint=medusa"
    found = run(monkeypatch, tmp_path, tiny, out, method)
    assert found.keys() == {"ar", "ar:checkpoint=medusa", method}
    assert found[method]["exact_match"] == 1.0


class StoppedError(Exception):
    pass


def test_stopped_anywhere_it_ends_with_the_same_weights(job, tmp_path, monkeypatch):
    """With learning rates of their own for model and heads, whose order a resume must keep."""
    real = OptimiserSettings.__init__
    monkeypatch.setattr(
        OptimiserSettings, "__init__", lambda self, *a, **k: real(self, *a, **k | {"save_every": 0})
    )
    settings = {"train": "joint", "joint_learning_rate": 1e-3}

    def stopping(at):
        seen = []

        def listen(what, done, total):
            if what.startswith("loss"):
                seen.append(done)
                if len(seen) == at:
                    raise StoppedError

        return listen

    whole = train(job(tmp_path / "whole"), **settings)
    for at in (2, 5, 1):
        with pytest.raises(StoppedError):
            train(job(tmp_path / "broken", stopping(at)), **settings)
    broken = train(job(tmp_path / "broken"), **settings)
    for name in ("model.safetensors", "medusa_lm_head.safetensors", "config.json"):
        assert (broken / "medusa" / name).read_bytes() == (whole / "medusa" / name).read_bytes()
    assert training_log(broken / "medusa") == training_log(whole / "medusa")


def test_a_joint_training_that_goes_wrong_is_stopped(job, tmp_path):
    settings = {"train": "joint", "joint_learning_rate": 10.0, "joint_steps": 8}
    with pytest.raises(TrainingCollapsed, match="the AR loss on held-out answers went from"):
        train(job(tmp_path / "out"), **settings)
    figures = [{"held_out_ar_loss": loss} for loss in (0.5, 1.6, 1.4, 1.7, 1.8)]
    assert went_wrong(figures) == "the AR loss on held-out answers went from 0.5 to 1.8"
    assert [went_wrong(figures[:end]) for end in range(1, 5)] == [None] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "medusa: heads must be at least 1, not 0"),
        ({"questions": -1}, "medusa: questions must be at least 0, not -1"),
        ({"decay": 0.0}, "medusa: decay must be above 0, not 0.0"),
        ({"warm_up": 1.0}, "warm_up from 0 to below 1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        MedusaRecipe(**settings)


def test_figures_are_finite(trained):
    lines = training_log(trained / "medusa")
    assert all(math.isfinite(value) for line in lines for value in line.values())
