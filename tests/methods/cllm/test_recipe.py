"""The recipe `cllm`, seconds long: to a family that runs, killed and repeated, and collapsing."""

import json
import math
from dataclasses import replace

import pytest
import torch
from cllm_trainings import SHORT, TASK, arguments, collection, contents, training_log
from families import cli, rows
from forked import ends_killed
from killed_trainings import SHARD_SIZE, killed_as_it_collects, killed_as_it_fits
from safetensors.torch import load_file

from cllm_bench.contracts import Source, TrainingJob
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.training.checkpoints import trained_state
from cllm_bench.training.recipe_runner import run_recipe
from cllm_bench_methods.cllm import recipe as recipe_module
from cllm_bench_methods.cllm.batches import make_batch
from cllm_bench_methods.cllm.evaluation import collapsed
from cllm_bench_methods.cllm.paper import PaperRecipe
from cllm_bench_methods.cllm.recipe import CllmRecipe
from cllm_bench_methods.trajectories.collect import CollectionSettings, read_records

CPU = Runtime("cpu", "float32", threads=1)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """What a short training leaves."""
    out = tmp_path_factory.mktemp("trained") / "family"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, *arguments(tiny, out)) == 0
    return out


def test_it_leaves_a_family_that_runs_at_once(monkeypatch, tmp_path, tiny, trained):
    asked = [
        "run",
        "--no-noise-floor",
        "--model",
        trained,
        "--method",
        "cllm",
        "--plugin",
        tiny[1],
        "--task",
    ]
    out = tmp_path / "out"
    common = ["--data", tmp_path, "--output", out, "--repeats", 1, "--threads", 1]
    assert cli(monkeypatch, *asked, "counting:count=4", *common) == 0
    assert {row["method"] for row in rows(out)} == {"ar", "ar:checkpoint=cllm", "cllm"}
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    exact = {each["method"]: each["exact_match"] for each in found}
    assert exact["cllm"] == 1.0


def test_what_lies_beside_the_weights(trained):
    lines = training_log(trained / "cllm")
    names = ("ar_loss", "tokens_per_pass", "score", "repetitive", "stationary_per_block")
    held_out = {f"held_out_{name}" for name in (*names, "fast_forwarded_per_iteration")}
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[0].keys() == {"step"} | held_out
    assert held_out | {"loss", "ar_loss", "consistency_loss", "gradient_norm"} <= lines[-1].keys()
    assert all(math.isfinite(value) for line in lines for value in line.values())
    for line in lines[1:]:
        assert line["loss"] == pytest.approx(line["consistency_loss"] + 10 * line["ar_loss"])
    kept = json.loads((trained / "cllm" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["learning_rate"] == 1e-3
    cleaning = kept["cleaning"]
    assert cleaning["questions"] == cleaning["answers"] == cleaning["kept_answers"] == 20
    assert cleaning["dropped"] == {}
    assert cleaning["augmented_tokens"] > 0
    config = json.loads((trained / "cllm" / "config.json").read_text(encoding="utf-8"))
    assert config["cllm"] == {"block_size": 8, "refill": "block", "guess": "prompt"}


def test_a_cllm_is_trained_further(monkeypatch, tmp_path, tiny, trained):
    """By so little here that its weights, which are stored in bfloat16, stay the same."""
    settings = {"init": "cllm", "learning_rate": 1e-9}
    assert cli(monkeypatch, *arguments((trained, tiny[1]), tmp_path / "more", **settings)) == 0
    before, after = (
        load_file(folder / "cllm" / "model.safetensors") for folder in (trained, tmp_path / "more")
    )
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    made = find_family(str(tmp_path / "more"), runtime=CPU)
    assert made.checkpoint("target") == find_family(str(trained), runtime=CPU).checkpoint("target")
    more = tmp_path / "more" / "cllm"
    kept = json.loads((more / "training_config.json").read_text())
    assert kept["configuration"]["model"].keys() == {"target", "cllm"}
    for name in ("training_config.json", "training_log.jsonl"):
        assert (more / "before" / name).read_bytes() == (trained / "cllm" / name).read_bytes()
    assert not (trained / "cllm" / "before").exists()  # it began with a target


def test_without_a_cllm_there_is_none_to_train_further(monkeypatch, tmp_path, capsys, tiny):
    assert cli(monkeypatch, *arguments(tiny, tmp_path / "out", init="cllm")) == 2
    assert "has no 'cllm' checkpoint" in capsys.readouterr().err


def test_figures_of_several_tasks_are_told_apart(monkeypatch, tmp_path, tiny):
    (tmp_path / "counting").mkdir()  # where both look for their data
    plugin, other = tmp_path / "counting.py", tmp_path / "tallying.py"
    plugin.write_text(tiny[1].read_text())
    other.write_text(plugin.read_text().replace("class Counting", "class Tallying"))
    asked = {"held_out": 20, "steps": 1, "evaluate_every": 1, "task": f"{TASK},tallying:count=20"}
    out = tmp_path / "out"
    assert cli(monkeypatch, *arguments((tiny[0], plugin), out, "--plugin", other, **asked)) == 0
    for line in training_log(out / "cllm"):
        for name in ("tokens_per_pass", "score", "repetitive"):
            each = [value for key, value in line.items() if key.startswith(f"held_out_{name}/")]
            assert len(each) == 2
            assert min(each) <= line[f"held_out_{name}"] <= max(each)
        assert 0 < line["held_out_score"] < 1


def in_small_shards(monkeypatch):
    real = CollectionSettings.__init__
    monkeypatch.setattr(
        CollectionSettings,
        "__init__",
        lambda self, *a, **k: real(self, *a, **k | {"shard_size": SHARD_SIZE}),
    )


@pytest.mark.parametrize("states", ["recorded", "online"])
def test_killed_and_repeated_it_ends_with_the_same_records_and_weights(
    monkeypatch, tmp_path, tiny, states
):
    settings = {"states": states, "steps": 6, "copies": 2, "iterations": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    asked = arguments(tiny, broken, **settings)
    ends_killed(tmp_path / "log", killed_as_it_collects, asked)
    shards = sorted(file.name for file in collection(broken).glob("*.parquet"))
    assert shards == ["shard-00000.parquet", "shard-00001.parquet"]
    assert not (collection(broken) / "manifest.json").exists()
    first = (collection(broken) / shards[0]).read_bytes()
    ends_killed(tmp_path / "log", killed_as_it_fits, asked)
    fit = broken / "training" / "cllm" / "fit-1"
    assert torch.load(fit / "checkpoint.pt", weights_only=True)["step"] == 3
    assert not (broken / "family.toml").exists()
    in_small_shards(monkeypatch)
    assert cli(monkeypatch, *asked) == 0
    assert cli(monkeypatch, *arguments(tiny, whole, **settings)) == 0
    assert (collection(broken) / shards[0]).read_bytes() == first  # not made again
    records = read_records(collection(broken))
    assert records == read_records(collection(whole))
    assert len({record.sample for record in records}) == 20
    for name in ("model.safetensors", "tokenizer.json"):
        written = (broken / "cllm" / name).read_bytes()
        assert written == (whole / "cllm" / name).read_bytes()
    found, expected = (
        trained_state(out / "training" / "cllm" / "fit-1") for out in (broken, whole)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert training_log(broken / "cllm") == training_log(whole / "cllm")


def test_a_second_round_collects_from_what_the_first_has_made(monkeypatch, tmp_path, tiny):
    out = tmp_path / "out"
    settings = {"rounds": 2, "growth": 2, "learning_rate": 1e-2, "questions": 6, "tokens": 512}
    assert cli(monkeypatch, *arguments(tiny, out, **settings)) == 0
    first, second = (read_records(collection(out, round_)) for round_ in (1, 2))
    longest = [max(len(each.fixed_point) for each in records) for records in (first, second)]
    assert longest == [8, 16]
    fitted = find_family(str(tiny[0]), runtime=CPU).model("target")
    fitted.load_state_dict(trained_state(out / "training" / "cllm" / "fit-1"))
    changed = 0
    for record in (each for each in second if each.block == 0):
        (before,) = (e for e in first if e.sample == record.sample and e.block == 0)
        changed += record.fixed_point[:8] != before.fixed_point
        seen = torch.tensor([record.prompt + record.fixed_point])
        predicted = fitted(input_ids=seen).logits[0, len(record.prompt) - 1 : -1].argmax(-1)
        assert predicted.tolist() == list(record.fixed_point)
    assert changed
    config = json.loads((out / "cllm" / "config.json").read_text(encoding="utf-8"))
    assert config["cllm"]["block_size"] == 16


def collapsing(tiny, out):
    wild = {"ar_weight": 0, "learning_rate": 1.0, "steps": 40, "warm_up": 0}
    return arguments(tiny, out, **wild)


def test_a_collapse_is_told_and_nothing_is_lost(monkeypatch, tmp_path, tiny, capsys):
    out = tmp_path / "out"
    assert cli(monkeypatch, *collapsing(tiny, out)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    fit = out / "training" / "cllm" / "fit-1"
    good = fit / "last-good"
    assert "error: the training collapsed at step 4: the AR loss on held-out answers" in said
    assert said.endswith(f"; as a checkpoint: --role cllm={good}")
    assert training_log(good)[-1]["step"] == 4
    assert not (out / "cllm").exists()
    before = contents(out)
    assert cli(monkeypatch, *collapsing(tiny, out)) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == said
    assert contents(out) == before
    run = ["run", "--model", tiny[0], "--role", f"cllm={good}", "--method", "cllm", "--repeats", 1]
    more = ["--plugin", tiny[1], "--task", "counting:count=2", "--data", tmp_path, "--threads", 1]
    assert cli(monkeypatch, *run, *more, "--output", tmp_path / "run") == 0


def test_what_a_collapse_leaves_is_from_before_it(monkeypatch, tmp_path, tiny):
    out = tmp_path / "out"
    assert cli(monkeypatch, *collapsing(tiny, out)) == 1
    fit = out / "training" / "cllm" / "fit-1"
    mark = json.loads((fit / "collapsed.json").read_text(encoding="utf-8"))
    assert mark["good"] == 0
    target = find_family(str(tiny[0]), runtime=CPU).model("target").state_dict()
    good = trained_state(fit, "good.pt")
    assert all(torch.equal(good[name], target[name]) for name in good)


def evaluation(**changes):
    figures = {"repetitive": 0.0, "ar_loss": 0.5, "score": 0.8, "tokens_per_pass": 1.5}
    return {f"held_out_{name}": value for name, value in (figures | changes).items()}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"repetitive": 0.3}, "the repetition rate on held-out questions went from 0 to 0.3"),
        ({"ar_loss": 1.6}, "the AR loss on held-out answers went from 0.5 to 1.6"),
        ({"score": 0.1}, "the score on held-out questions went from 0.8 to 0.1"),
    ],
)
def test_two_bad_evaluations_are_a_collapse_and_one_is_a_shock(bad, message):
    good, bad = evaluation(), evaluation(**bad)
    assert collapsed([good, good, bad, bad]) == message
    assert collapsed([good, bad, bad]) == message
    for fine in ([bad], [bad, bad, bad], [good, bad], [good, good, bad], [good, bad, good]):
        assert collapsed(fine) is None
    assert collapsed([good, bad, good, bad]) is None


def test_two_evaluations_bad_in_different_ways_are_no_collapse():
    series = [evaluation(), evaluation(score=0.0), evaluation(repetitive=0.9)]
    assert collapsed(series) is None


@pytest.fixture(scope="module")
def job(tiny, trained):
    """A job in this process, to train many variants from one collection."""
    from cllm_bench.core.registry import Registry

    registry = Registry((tiny[1],))
    task = registry.tasks.get("counting")(count=30)
    found = task.samples(Source("folder", tiny[0], "train"))
    family = find_family(str(tiny[0]), runtime=CPU)
    return lambda output: TrainingJob(family, {"counting": (task, found)}, output, lambda *_: None)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"lora_rank": 2},
        {"gradient_checkpointing": True},
        {"ar_labels": "reference"},
        {"attention": "eager", "accumulate": 2},
        {"form": "single"},
        {"form": "single", "states": "online", "copies": 2, "iterations": 2},
        {"states": "online", "copies": 4, "iterations": 2, "guess": "last"},
        {"objective": "local", "copies": 2, "iterations": 2},
        {"objective": "local", "copies": 3, "iterations": 3, "states": "online", "ahead": 2},
        {"states": "online", "refill": "sliding", "guess": "pad"},
        {"anchor_weight": 1.0, "prompt_weight": 0.1, "normalise": "rows"},
        {"label_smoothing": 0.1, "ar_labels": "reference"},
        {"form": "single", "answers": 2},
        {"objective": "progressive"},
        {"objective": "progressive", "states": "online", "window": 2, "copies": 2},
        {"divergence": "reverse_kl"},
        {"divergence": "jsd", "augment": 0.0},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_option_trains(tmp_path, job, trained, changes):
    settings = {**SHORT, "clean": False, "steps": 3, "evaluate_every": 100, **changes}
    said = []
    out = run_recipe(
        "cllm", CllmRecipe(**settings), job(tmp_path / "out"), said.append, siblings=[trained]
    )
    assert said[0].startswith("collect-1: taken from") == (settings.get("states") != "online")
    newest = training_log(out / "cllm")[-1]
    assert newest["step"] == 3
    assert newest["consistency_loss"] > 0
    assert newest["gradient_norm"] > 0
    assert all(math.isfinite(value) for value in newest.values())


def test_chains_of_one_step_begin_equally_far_ahead(monkeypatch, tmp_path, job):
    """Processes that share a step would otherwise make unequal numbers of passes in it."""
    drawn = []

    def spy(answers, states, generator, ahead):
        drawn.append(ahead)
        return make_batch(answers, states, generator, ahead)

    monkeypatch.setattr(recipe_module, "make_batch", spy)
    changes = {"states": "online", "ahead": 2, "steps": 8, "accumulate": 3}
    settings = {**SHORT, "evaluate_every": 100, **changes}
    run_recipe("cllm", CllmRecipe(**settings), job(tmp_path / "out"), lambda _: None)
    steps = [set(drawn[start : start + 3]) for start in range(0, len(drawn), 3)]
    assert len(steps) == 8
    assert all(len(step) == 1 for step in steps)
    assert set.union(*steps) == {0, 1, 2}


def test_an_epoch_is_all_blocks_and_few_updates_are_told(tmp_path, job, trained):
    """An update is one block of four answers each, so an epoch takes more than one pass."""
    out, said = tmp_path / "out", []
    settings = {**SHORT, "clean": False, "steps": 0, "learning_rate": 1e-5, "evaluate_every": 100}
    recipe = PaperRecipe(**settings, epochs=2)
    asked = replace(job(out), tell=said.append)
    run_recipe("cllm-paper", recipe, asked, lambda _: None, siblings=[trained])
    blocks = len(read_records(collection(out)))
    assert blocks > 20
    steps = math.ceil(2 * blocks / 4)
    assert training_log(out / "cllm")[-1]["step"] == steps
    (line,) = said
    assert line.startswith(f"cllm: {steps} updates at a rate of up to 1e-05 move a weight by ")
    assert line.endswith("give more steps or a higher learning_rate")
