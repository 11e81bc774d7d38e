"""Running a recipe: stages done once, one training a folder, and recipes that are refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from families import cli, write_coding_task
from target_trainings import TINY, train

from cllm_bench.contracts import Stage, TrainingJob
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.sandbox import isolation as sandbox_strength
from cllm_bench.training.recipe_runner import run_recipe


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
        job = TrainingJob(
            ModelFamily(FamilyDescription("none", {})), {}, tmp_path / name, lambda *_: None
        )
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
