"""The recipe `target`, seconds long: from scratch, resumed after a kill, and as fine-tuning."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from families import cli, write_coding_task

from cllm_bench.contracts import Message, Sample, Stage, TrainingJob
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.decoding.chat_templates import chat_ids
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.sandbox import isolation as sandbox_strength
from cllm_bench.training.recipe_runner import run_recipe
from cllm_bench_methods.recipes.examples import Answers, Example, collate, encode
from cllm_bench_methods.recipes.losses import answer_loss
from cllm_bench_methods.target.from_scratch import train_tokenizer

SHAPE = "init=scratch,hidden=16,layers=1,heads=2,feed_forward=24,vocabulary=400,learning_rate=0.01"
TINY = f"target:{SHAPE},tokens=512"
TASK = "spider:train_questions=400"


def train(monkeypatch, recipe, output, *more):
    arguments = ["train", recipe, "--task", TASK, "--output", output, "--threads", 1, *more]
    return cli(monkeypatch, *arguments, "--device", "cpu")


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
    assert (family.threads, family.built_in) == (mini.threads, True)
    run = ["run", "--model", out, "--method", "ar", "--task", "spider:max_new_tokens=4"]
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
    recipe = f"{TINY},steps=400"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(monkeypatch, recipe, whole) == 0
    code = (
        "import cllm_bench.training.trainer as o\n"
        "real = o.OptimiserSettings.__init__\n"
        "def often(self, *a, **k):\n    real(self, *a, **k | {'save_every': 0.2})\n"
        "o.OptimiserSettings.__init__ = often\n"
        "from cllm_bench.cli.app import main\nmain()\n"
    )
    arguments = ["train", recipe, "--task", TASK, "--output", str(killed), "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = killed / "training" / "target" / "fit" / "checkpoint.pt"
    deadline = time.monotonic() + 90
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < 400
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


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("targett", "no recipe named 'targett'; did you mean 'target'?"),
        ("target:step=3", "did you mean 'steps'?"),
        ("target:steps=0", "must be at least 1"),
        ("target:init=x", "init=x is not one of checkpoint, scratch"),
    ],
)
def test_bad_recipes(monkeypatch, tmp_path, capsys, recipe, message):
    assert train(monkeypatch, recipe, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_sandbox_is_tried_before_anything_is_trained(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    arguments, weak = write_coding_task(tmp_path, monkeypatch)
    assert train(monkeypatch, TINY, out, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "programs can reach your files" in error
    assert "--allow-unsafe-code" in error
    assert len(error.splitlines()) == 1
    assert not out.exists()

    def run_recipe(name, recipe, job, announce):
        sandbox_strength.require(weak)  # as a grader asks
        return job.output

    monkeypatch.setattr("cllm_bench.training.recipe_runner.run_recipe", run_recipe)
    arguments.append("--allow-unsafe-code")
    assert train(monkeypatch, TINY, out, *arguments) == 0
    assert capsys.readouterr().err.count(f"{weak}\n") == 1
    monkeypatch.setenv("RANK", "1")
    assert train(monkeypatch, TINY, out, *arguments) == 0
    assert str(weak) not in capsys.readouterr().err  # every process tries, and one talks


def test_an_output_in_use_for_something_else(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert train(monkeypatch, f"{TINY},steps=20", out) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "mine"
    other = tmp_path / "other"
    assert train(monkeypatch, f"{TINY},steps=20", other) == 0
    assert train(monkeypatch, f"{TINY},steps=21", other) == 2
    assert (
        "holds another training: training.settings.steps = 20, and this one has 21"
        in capsys.readouterr().err
    )
    (file,) = other.glob("training/*/manifest.json")
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert stored["schema"] == SCHEMA
    file.write_text(json.dumps(stored | {"schema": SCHEMA + 1}), encoding="utf-8")
    assert train(monkeypatch, f"{TINY},steps=20", other) == 2
    assert f"has schema version {SCHEMA + 1}, and this" in capsys.readouterr().err


def test_a_role_is_not_put_beside_weights_that_it_was_not_made_from(
    monkeypatch, tmp_path, tiny, capsys
):
    out = tmp_path / "out"
    assert train(monkeypatch, f"{TINY},steps=20", out) == 0
    asked = ["train", "cllm:steps=1,held_out=4", "--model", tiny[0], "--task", "counting"]
    assert cli(monkeypatch, *asked, "--plugin", tiny[1], "--output", out) == 2
    assert f"'{out}' has another 'target' than 'tiny'" in capsys.readouterr().err
    assert not (out / "cllm").exists()


@dataclass(frozen=True)
class Made:
    """A recipe of two stages, of which one may be taken from another training."""

    role: ClassVar[str] = "made"
    builds_on: ClassVar[tuple[str, ...]] = ()
    collect: Callable[[Path], None]
    fit: Callable[[Path], None]
    key: str | None = "k1"

    def stages(self, job):
        return Stage("collect", self.collect, self.key), Stage("fit", self.fit)


def collect(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "data").write_text("collected")


def fit(folder):
    (folder.parents[2] / "made").mkdir()  # what the last stage leaves: the checkpoint of the role


def never(folder):
    raise AssertionError("this stage is not to be run")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a recipe without settings to a folder; return what it announced."""
    monkeypatch.setattr("cllm_bench.training.recipe_runner.as_dict", lambda recipe: {})

    def run(name, recipe, *siblings):
        said = []
        job = TrainingJob(ModelFamily("none", {}), {}, tmp_path / name, lambda *_: None)
        run_recipe("made", recipe, job, said.append, [tmp_path / one for one in siblings])
        return said

    return run


def test_a_stage_with_the_same_key_is_taken_from_a_sibling(run, tmp_path):
    assert run("first", Made(collect, fit)) == ["collect", "fit"]
    marks = tmp_path / "first" / "training" / "made"
    assert (marks / "collect.done").read_text() == "k1"
    assert (marks / "fit.done").read_text() == ""
    left = tmp_path / "second" / "training" / "made" / "collect"
    with pytest.raises(ZeroDivisionError):
        run("second", Made(lambda folder: (folder / "half").write_text(str(1 / 0)), never))
    (left / "half").write_text("what an interrupted attempt left")
    said = run("second", Made(never, fit), "missing", "first")
    assert said == [f"collect: taken from {tmp_path / 'first'}", "fit"]
    assert [file.name for file in left.rglob("*")] == ["sub", "data"]
    assert (left / "sub" / "data").read_text() == "collected"
    assert not list(left.parent.glob(".*copying*"))
    assert run("second", Made(never, never)) == ["collect: done before", "fit: done before"]
    assert run("third", Made(collect, fit, "k2"), "first")[0] == "collect"
    assert run("fourth", Made(collect, fit, None), "first")[0] == "collect"
    with pytest.raises(UserError, match="holds a 'collect' made from something else"):
        run("second", Made(never, never, "k2"))


def test_one_training_at_a_time_in_a_folder(run, tmp_path):
    def another(folder):
        with pytest.raises(UserError, match=f"'{tmp_path / 'out'}' is in use by another training"):
            run("out", Made(never, never))

    run("out", Made(another, fit))
    assert run("out", Made(never, never)) == ["collect: done before", "fit: done before"]


def test_a_collapse_ends_the_command_with_one_line(run, monkeypatch, tmp_path, capsys):
    def collapse(folder):
        raise TrainingCollapsed("the training collapsed at step 3")

    with pytest.raises(TrainingCollapsed):
        run("out", Made(fit, collapse))
    assert not (tmp_path / "out" / "training" / "made" / "fit.done").exists()
    monkeypatch.setattr("cllm_bench_methods.target.recipe._Training.fit", lambda *_: collapse(_))
    assert train(monkeypatch, f"{TINY},steps=20", tmp_path / "told") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: the training collapsed at step 3"


def test_answers_are_weighted_and_padding_is_not():
    batch = collate([Example([1, 2, 3], [4, 5]), Example([6], [7])], prompt_weight=0.25)
    padding = [0] * 3  # to a multiple of 8
    assert batch["ids"].tolist() == [[1, 2, 3, 4, 5, *padding], [6, 7, 0, 0, 0, *padding]]
    assert batch["weights"].tolist() == [[0, 0.25, 0.25, 1, 1, *padding], [0, 1, 0, 0, 0, *padding]]


@torch.no_grad()
def test_the_loss_is_the_summed_weighted_cross_entropy(llama):
    batch = collate([Example([1, 2, 3], [4, 5]), Example([6], [7])], prompt_weight=0.5)
    expected, total = 0.0, 0.0
    for ids, weights_ in (([1, 2, 3, 4, 5], [0.5, 0.5, 1, 1]), ([6, 7], [1])):
        logits = llama(torch.tensor([ids])).logits[0].log_softmax(-1)
        for position, weight in enumerate(weights_):
            expected -= weight * float(logits[position, ids[position + 1]])
            total += weight
    loss = answer_loss(llama, batch)
    assert loss.count == total
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    examples = [Example([1] * (1 + i % 9), [2] * (1 + i % 5)) for i in range(100)]
    answers = Answers(examples, tokens=50, seed=3)
    forward = [answers.batch(number) for number in range(60)]
    again = Answers(examples, tokens=50, seed=3)
    assert [again.batch(number) for number in reversed(range(60))] == forward[::-1]
    sizes = [max(e.length for e in batch) * len(batch) for batch in forward]
    assert max(sizes) <= 50
    epoch = []
    while len(epoch) < len(examples):
        epoch += forward.pop(0)
    assert sorted(epoch) == sorted(examples)


def test_the_tokenizer_splits_digits_and_gives_any_text_back():
    tokenizer = train_tokenizer(["SELECT name FROM singer WHERE age > 123"] * 5, 300)
    text = "SELECT näme FROM 'x' WHERE age > 1234 \n"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    decoded = [tokenizer.decode([token]).strip() for token in ids]
    digits = [text for text in decoded if text.isdigit()]
    assert digits == list("1234")
    (example,) = encode([Sample("1", "SELECT", " name")], tokenizer)
    assert example.answer[-1] == tokenizer.eos_token_id
    talk: list[Message] = [{"role": "user", "content": "SELECT what?"}]
    assert chat_ids(tokenizer, "checkpoint", talk) == chat_ids(tokenizer, "plain", talk)
