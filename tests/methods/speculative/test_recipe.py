"""The recipe `draft`, seconds long: to a family whose `speculative` runs."""

import json
import math
import shutil

import pytest
import torch
from cllm_trainings import contents, training_log
from families import cli, rows, write_checkpoint

from cllm_bench.contracts import Source, TrainingJob
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.training.recipe_runner import run_recipe
from cllm_bench_methods.speculative.recipe import DraftRecipe

CPU = Runtime("cpu", "float32", threads=1)
SHORT = {
    "layers": 1,
    "questions": 20,
    "held_out": 4,
    "evaluate_every": 10,
    "steps": 30,
    "tokens": 256,
    "learning_rate": 3e-3,
    "clean": "false",
}


def arguments(tiny, output, *more, **settings):
    chosen = ",".join(f"{name}={value}" for name, value in {**SHORT, **settings}.items())
    family, plugin = tiny
    asked = ["train", f"draft:{chosen}", "--model", family, "--plugin", plugin]
    task = ["--task", "counting:count=30", "--data", plugin.parent, "--output", output]
    return [*map(str, [*asked, *task, "--device", "cpu", "--threads", 1, *more])]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """What a short training leaves."""
    out = tmp_path_factory.mktemp("trained") / "family"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, *arguments(tiny, out)) == 0
    return out


def test_it_leaves_a_family_whose_speculative_runs(monkeypatch, tmp_path, tiny, trained):
    out = tmp_path / "out"
    asked = [
        "run",
        "--no-noise-floor",
        "--model",
        trained,
        "--plugin",
        tiny[1],
        "--task",
        "counting:count=4",
    ]
    methods = ["--method", "speculative:k=2", "--method", "hf_assisted:k=2"]
    common = ["--data", tmp_path, "--output", out, "--repeats", 1, "--threads", 1]
    assert cli(monkeypatch, *asked, *methods, *common) == 0
    assert {row["method"] for row in rows(out)} == {"ar", "speculative:k=2", "hf_assisted:k=2"}
    found = {each["method"]: each for each in json.loads((out / "summary.json").read_text())}
    assert found["speculative:k=2"]["exact_match"] == 1.0
    assert found["speculative:k=2"]["tokens_per_pass"] > 1.0
    assert 0 < found["speculative:k=2"]["extra_parameters"] < found["ar"]["parameters"]


def test_what_lies_beside_the_weights(trained):
    assert {file.name for file in (trained / "draft").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training_log.jsonl",
        "training_config.json",
    }
    config = json.loads((trained / "draft" / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 1
    log = training_log(trained / "draft")
    assert [line["step"] for line in log] == [0, 10, 20, 30]
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert log[-1]["held_out_divergence"] < 0.8 * log[0]["held_out_divergence"]
    assert log[-1]["held_out_tokens_per_pass"] > log[0]["held_out_tokens_per_pass"]
    kept = json.loads((trained / "draft" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["layers"] == 1
    assert kept["cleaning"]["questions"] == kept["cleaning"]["answers"] == 20


def test_interrupted_it_ends_with_the_same_weights(monkeypatch, tmp_path, tiny, trained):
    from cllm_bench.training.trainer import Optimiser, OptimiserSettings

    plain, step = OptimiserSettings.__init__, Optimiser._one_step

    def stopping(self, *given):
        if self._step == 17:
            raise KeyboardInterrupt
        return step(self, *given)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        save = {"save_every": 0}
        patch.setattr(OptimiserSettings, "__init__", lambda s, *a, **k: plain(s, *a, **k | save))
        patch.setattr(Optimiser, "_one_step", stopping)
        assert cli(monkeypatch, *arguments(tiny, out)) != 0
    fit = out / "training" / "draft" / "fit" / "checkpoint.pt"
    assert torch.load(fit, weights_only=True)["step"] == 17
    assert cli(monkeypatch, *arguments(tiny, out)) == 0
    for name in ("model.safetensors", "training_log.jsonl"):
        ours, whole = (folder / "draft" / name for folder in (out, trained))
        if name.endswith("jsonl"):
            assert training_log(ours.parent) == training_log(whole.parent)
        else:
            assert ours.read_bytes() == whole.read_bytes()
    before = contents(out)
    assert cli(monkeypatch, *arguments(tiny, out)) == 0
    assert contents(out) == before


@pytest.fixture(scope="module")
def job(tiny, trained):
    """A job in this process, to train many variants from one collection."""
    from cllm_bench.core.registry import Registry

    task = Registry((tiny[1],)).tasks.get("counting")(count=30)
    found = task.samples(Source("folder", tiny[0], "train"))
    roles = {"draft": str(trained / "draft")}
    family = find_family(str(tiny[0]), roles=roles, runtime=CPU)
    return lambda output: TrainingJob(family, {"counting": (task, found)}, output, lambda *_: None)


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "scratch", "hidden": 16, "heads": 2, "feed_forward": 24},
        {"init": "checkpoint"},
        {"pick": "spread"},
        {"divergence": "reverse_kl"},
        {"divergence": "jsd", "ce_weight": 0.5},
        {"precision": "bf16", "attention": "eager", "accumulate": 2},
        {"steps": 0},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_option_trains(tmp_path, job, trained, changes):
    settings = {**SHORT, "clean": False, "steps": 3, "evaluate_every": 100, **changes}
    said = []
    recipe = DraftRecipe(**settings)
    out = run_recipe("draft", recipe, job(tmp_path / "out"), said.append, siblings=[trained])
    assert said[0].startswith("collect: taken from")
    log = training_log(out / "draft")
    assert log[-1]["step"] == 3  # as many as one pass over the answers takes, too
    assert log[-1]["gradient_norm"] > 0
    assert log[-1]["held_out_divergence"] < log[0]["held_out_divergence"]
    assert ("ce_loss" in log[-1]) == ("ce_weight" in changes)
    family = find_family(str(out), runtime=CPU)
    assert family.model("draft").config.vocab_size == family.vocabulary("target")


def test_all_layers_begin_as_the_target_itself(tmp_path, job, trained):
    settings = {**SHORT, "clean": False, "steps": 1, "layers": 2, "pick": "spread"}
    recipe = DraftRecipe(**settings)
    out = run_recipe("draft", recipe, job(tmp_path / "out"), lambda _: None, siblings=[trained])
    first = training_log(out / "draft")[0]
    assert first["held_out_divergence"] == pytest.approx(0, abs=1e-6)
    assert {first[f"held_out_acceptance_{place}"] for place in (1, 2, 3, 4)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, "draft: layers=3, and the target has 2; lower it"),
        ({"layers": 0}, "draft: layers must be at least 1, not 0"),
        ({"init": "checkpoint"}, "has no 'draft' checkpoint"),
        ({"init": "scratch", "hidden": 10}, "hidden=10 does not divide into heads=4"),
        ({"questions": 27}, "draft: questions=27, and there are 26 beside the 4 held out"),
        ({"held_out": 30}, "draft: 30 training questions are too few, for held_out=30"),
        ({"learning_rate": 0}, "draft: learning_rate must be above 0"),
        ({"divergence": "kl"}, "divergence=kl is not one of forward_kl, reverse_kl, jsd"),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_is_refused_leaves_nothing(monkeypatch, tmp_path, tiny, capsys, settings, message):
    out = tmp_path / "out"
    assert cli(monkeypatch, *arguments(tiny, out, **settings)) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_cleaning_that_leaves_nothing_does_not_stand_in_the_way(
    monkeypatch, tmp_path, tiny, capsys
):
    from transformers import AutoModelForCausalLM

    stuck = write_checkpoint(tmp_path / "stuck")
    model = AutoModelForCausalLM.from_pretrained(stuck)
    model.lm_head.weight.data.zero_()  # it says the same token for ever
    model.save_pretrained(stuck)
    out = tmp_path / "out"
    asked = arguments((stuck, tiny[1]), out, steps=1, clean="true")
    assert cli(monkeypatch, *asked) == 2
    assert "cleaning left none of 20 answers to learn from" in capsys.readouterr().err
    assert cli(monkeypatch, *arguments((stuck, tiny[1]), out, steps=1)) == 0
    assert "collect: done before" in capsys.readouterr().err


def test_prompts_that_fill_the_target_are_named(monkeypatch, tmp_path, tiny, capsys):
    from transformers import AutoConfig

    monkeypatch.setattr("cllm_bench.engine.loading.refuse_behaviour", lambda *_: None)
    narrow = tmp_path / "narrow"
    shutil.copytree(tiny[0] / "target", narrow)
    config = AutoConfig.from_pretrained(narrow)
    config.max_position_embeddings = 2
    config.save_pretrained(narrow)
    assert cli(monkeypatch, *arguments((narrow, tiny[1]), tmp_path / "out")) == 2
    assert "none of 4 held-out questions leaves the target room" in capsys.readouterr().err
