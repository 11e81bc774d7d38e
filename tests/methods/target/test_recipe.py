"""The recipe `target`, seconds long: from scratch, resumed after a kill, and as fine-tuning."""

import json

import torch
from families import cli
from forked import ends_killed
from killed_trainings import killed_at_step
from target_trainings import TASK, TINY, train

from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime


def weights(family):
    from safetensors.torch import load_file

    return load_file(family / "target" / "model.safetensors")


def log(family):
    file = family / "target" / "training_log.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_from_scratch_to_a_family_that_runs(monkeypatch, tmp_path):
    out = tmp_path / "mine"
    assert train(monkeypatch, f"{TINY},steps=60", out) == 0
    lines = log(out)
    assert lines[-1]["step"] == 60
    assert lines[0]["step"] == 0
    assert lines[0].keys() == {"step", "held_out_loss", "held_out_exact", "time"}
    assert lines[-1]["loss"] < lines[1]["loss"]
    assert {"held_out_loss", "held_out_exact"} <= set(lines[-1])
    kept = json.loads((out / "target" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["hidden"] == 16
    family = find_family(str(out), runtime=Runtime("cpu", "float32", threads=1))
    assert family.vocabulary("target") == 400
    mini = find_family("mini")  # from which it comes
    told = family.description
    assert (told.threads, told.built_in) == (mini.description.threads, True)
    run = ["run", "--model", out, "--method", "ar", "--task", "spider:max_new_tokens=4"]
    run += ["--threads", 1, "--no-noise-floor"]
    data = write_spider(tmp_path / "spider")
    assert cli(monkeypatch, *run, "--data", data, "--output", tmp_path / "run") == 0
    assert cli(monkeypatch, *run, "--limit", 1, "--output", tmp_path / "built-in") == 0


def write_spider(folder):
    """A data set of one question in Spider's layout."""
    import sqlite3
    from contextlib import closing

    database = folder / "database" / "pets" / "pets.sqlite"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE pet (name TEXT)")
        connection.execute("INSERT INTO pet VALUES ('Rex')")
        connection.commit()
    question = {"db_id": "pets", "question": "Which pets?", "query": "SELECT name FROM pet"}
    schema = {
        "db_id": "pets",
        "table_names_original": ["pet"],
        "column_names_original": [[-1, "*"], [0, "name"]],
    }
    (folder / "dev.json").write_text(json.dumps([question]), encoding="utf-8")
    (folder / "tables.json").write_text(json.dumps([schema]), encoding="utf-8")
    return folder


def test_killed_and_repeated_it_ends_with_the_same_weights(monkeypatch, tmp_path):
    recipe = f"{TINY},steps=60"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(monkeypatch, recipe, whole) == 0
    arguments = ["train", recipe, "--task", TASK, "--output", str(killed), "--threads", "1"]
    ends_killed(tmp_path / "log", killed_at_step, [*arguments, "--device", "cpu"], 42, 25)
    checkpoint = killed / "training" / "target" / "fit" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 25
    assert train(monkeypatch, recipe, killed) == 0
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(killed).items())
    assert [line["step"] for line in log(killed)] == [line["step"] for line in log(whole)]


def test_fine_tuning_starts_from_the_checkpoint(monkeypatch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(monkeypatch, f"{TINY},steps=40", first) == 0
    tune = "target:steps=20,tokens=512,learning_rate=1e-3"
    assert train(monkeypatch, tune, second, "--model", first, "--data", tmp_path) == 2
    assert not second.exists()  # a mistake leaves nothing that stands in the way of its correction
    data = real_layout(tmp_path)
    assert train(monkeypatch, tune, second, "--model", first, *data) == 0
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert log(second)[1]["loss"] < log(first)[1]["loss"]
    assert train(monkeypatch, tune, second, "--model", first, *data) == 0  # it is done
    third, kept = tmp_path / "third", "training_log.jsonl"
    assert train(monkeypatch, tune, third, "--model", second, *data) == 0
    for folder, earlier in (("before", second), ("before/before", first)):
        assert (third / "target" / folder / kept).read_bytes() == (
            earlier / "target" / kept
        ).read_bytes()


def real_layout(tmp_path):
    """Training questions in Spider's layout, as somebody with a model of their own has them."""
    folder = write_spider(tmp_path / "layout")
    question = json.loads((folder / "dev.json").read_text(encoding="utf-8"))[0]
    many = [question | {"question": f"Which pets? {index}"} for index in range(300)]
    (folder / "train_spider.json").write_text(json.dumps(many), encoding="utf-8")
    return "--data", folder
