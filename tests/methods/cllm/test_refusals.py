"""What the recipe `cllm` refuses: one line, exit code 2, and nothing in the way of a correction."""

import fcntl
import json
import shutil

import pytest
import torch
from cllm_trainings import arguments, contents, training_log
from families import cli, write_checkpoint

from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench_methods.recipes.examples import collate
from cllm_bench_methods.recipes.losses import answer_loss
from cllm_bench_methods.trajectories.collect import read_records
from cllm_bench_methods.trajectories.target_answers import examples_of


def refused(monkeypatch, capsys, asked):
    """The one line of a command that ends with code 2; stages begun before it are told as well."""
    assert cli(monkeypatch, *asked) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("error")] == lines[-1:]
    return lines[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": 27}, "questions=27, and there are 26 beside the 4 held out; lower it"),
        ({"held_out": 30}, "30 training questions are too few, for held_out=30 of them"),
        ({"objective": "globl"}, "no objective named 'globl'; did you mean 'global'?"),
        ({"objective": "global:divergence=jsd"}, "'global' follows the setting 'divergence'"),
        ({"objective": "global:depth=1"}, "objective 'global' has no setting 'depth'"),
        ({"divergence": "kl"}, "divergence=kl is not one of forward_kl, reverse_kl, jsd"),
        ({"objektive": "local"}, "did you mean 'objective'?"),
        ({"objective": "local", "copies": 1}, "objective=local pairs each state with the next"),
        ({"copies": 3, "iterations": 2}, "copies=3 is no multiple of iterations=2"),
        ({"objective": "progressive", "form": "single"}, "progressive needs form=packed"),
        ({"block_size": 21}, "block_size=21 is longer than a reply to 'counting' may be (20"),
        ({"rounds": 3, "growth": 2}, "block_size=32 is longer than a reply to 'counting'"),
        ({"augment": 2}, "augment is a share between 0 and 1, not 2"),
        ({"block_size": 1}, "block_size must be at least 2, not 1"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"refill": "sliding"}, "recorded states are those of blocks: give states=online"),
        ({"ahead": 2}, "recorded states are those of blocks: give states=online"),
        ({"anchor_weight": 1, "form": "single"}, "anchor_weight need form=packed"),
        ({"epochs": 0}, "epochs must be above 0, and label_smoothing below 1"),
        ({"label_smoothing": 1}, "epochs must be above 0, and label_smoothing below 1"),
        (
            {"objective": "local", "copies": 2, "iterations": 2, "states": "online"},
            "online chains begin with fresh guesses: give ahead=8, say",
        ),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_bad_settings_leave_nothing(monkeypatch, tmp_path, tiny, capsys, settings, message):
    out = tmp_path / "out"
    assert message in refused(monkeypatch, capsys, arguments(tiny, out, **settings))
    assert not out.exists()


def test_no_questions_to_learn_from(monkeypatch, tmp_path, tiny, capsys):
    out = tmp_path / "out"
    asked = arguments(tiny, out, task="counting:count=0")
    assert "0 training questions are too few, for held_out=4" in refused(monkeypatch, capsys, asked)
    assert not out.exists()


def test_a_tokenizer_that_differs_between_roles(monkeypatch, tmp_path, tiny, capsys):
    from cllm_bench_methods.target.from_scratch import train_tokenizer

    draft = write_checkpoint(tmp_path / "draft")
    train_tokenizer(["nine ten"] * 4, 290).save_pretrained(draft)
    out = tmp_path / "out"
    line = refused(monkeypatch, capsys, arguments(tiny, out, "--role", f"draft={draft}"))
    assert f"the tokenizer of 'draft' ('{draft}') differs from that of 'target' (" in line
    assert "--role draft=PATH_OR_HUB_ID" in line
    assert not out.exists()
    # The `cllm` that is made anew may be of another family.
    again = arguments(tiny, out, "--role", f"cllm={draft}", steps=1, questions=2)
    assert cli(monkeypatch, *again) == 0


def test_an_output_in_use(monkeypatch, tmp_path, tiny, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    asked = arguments(tiny, foreign)
    assert f"'{foreign}' holds something else" in refused(monkeypatch, capsys, asked)
    assert [file.name for file in foreign.iterdir()] == ["thesis.txt"]
    trained = tmp_path / "trained"
    small = {"steps": 1, "questions": 2}
    assert cli(monkeypatch, *arguments(tiny, trained, **small)) == 0
    before = contents(trained)
    asked = arguments(tiny, trained, **small, ar_weight=1)
    line = refused(monkeypatch, capsys, asked)
    assert "holds another training: training.settings.ar_weight = 10" in line
    with (trained / "training" / ".lock").open() as held:  # as another process holds it
        fcntl.flock(held, fcntl.LOCK_EX)
        line = refused(monkeypatch, capsys, arguments(tiny, trained, **small))
    assert f"'{trained}' is in use by another training" in line
    assert contents(trained) == before
    assert cli(monkeypatch, *arguments(tiny, trained, **small)) == 0
    assert "fit-1: done before" in capsys.readouterr().err
    assert contents(trained) == before


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
    line = refused(monkeypatch, capsys, asked)
    assert "cleaning left none of 20 answers to learn from (token_run 20); train with" in line
    assert "with clean=false, or give other questions" in line
    assert cli(monkeypatch, *arguments((stuck, tiny[1]), out, steps=1)) == 0
    assert "collect-1: done before" in capsys.readouterr().err


def narrow(tiny, folder, positions):
    """The target with fewer positions; prompts have 2 to 7 tokens, answers 3."""
    from transformers import AutoConfig

    shutil.copytree(tiny[0] / "target", folder)
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = positions
    config.save_pretrained(folder)
    return folder, tiny[1]


def test_questions_that_do_not_fit_the_model_are_left_out(monkeypatch, tmp_path, tiny, capsys):
    settings = {"held_out": 12, "questions": 18, "block_size": 2}
    family = narrow(tiny, tmp_path / "eight", 8)
    out = tmp_path / "out"
    assert cli(monkeypatch, *arguments(family, out, **settings)) == 0
    assert training_log(out / "cllm")[-1]["step"] == 4
    monkeypatch.setattr("cllm_bench.engine.loading.refuse_behaviour", lambda *_: None)  # needs 6
    family = narrow(tiny, tmp_path / "two", 2)
    line = refused(monkeypatch, capsys, arguments(family, tmp_path / "none", **settings))
    assert "none of 18 training questions leaves the target room for an answer" in line


@pytest.fixture
def prompts(tmp_path):
    """Prompts without a reference answer."""
    file = tmp_path / "prompts.jsonl"
    lines = (json.dumps({"prompt": "one two three four five"[: 5 + i]}) for i in range(18))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


TARGET = "target:steps=1,tokens=64"
CHEAP = "steps=1,questions=2,held_out=2"


@pytest.mark.parametrize(
    ("recipe", "task", "message"),
    [
        (TARGET, "prompts", "target: 18 of 18 training questions of 'prompts' have no reference"),
        (f"cllm:{CHEAP},ar_labels=reference", "prompts", "'prompts' have no reference to learn"),
        (TARGET, "conversations", "'conversations' are not written as its chat template asks"),
        (f"cllm:{CHEAP}", "conversations", "cllm: 18 of 18 training questions of 'conversations'"),
        (f"draft:{CHEAP},layers=1", "conversations", "are not written as its chat template asks"),
        (f"medusa:{CHEAP}", "conversations", "are not written as its chat template asks them"),
    ],
)
def test_questions_without_a_reference(
    monkeypatch, tmp_path, tiny, capsys, prompts, recipe, task, message
):
    out = tmp_path / "out"
    asked = ["train", recipe, "--model", tiny[0], "--task", f"{task}:path={prompts}"]
    assert message in refused(monkeypatch, capsys, [*asked, "--output", out, "--device", "cpu"])
    assert not out.exists()


def test_the_target_answers_what_the_data_set_does_not(monkeypatch, tmp_path, tiny, prompts):
    """Held-out questions are watched by its own answers, which the model in training gives."""
    out = tmp_path / "out"
    task = f"prompts:path={prompts},max_new_tokens=20"
    settings = {"questions": 10, "steps": 1, "evaluate_every": 1}
    assert cli(monkeypatch, *arguments(tiny, out, task=task, **settings)) == 0
    records = read_records(out / "training" / "cllm" / "collect-1" / "prompts")
    kept = json.loads((out / "cllm" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["cleaning"]["answers"] == 10
    answers = list(examples_of(records).values())
    assert len(answers) == 14
    model = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1)).model("target")
    with torch.no_grad():
        losses = [answer_loss(model, collate([each])) for each in answers[:4]]
    mean = sum(float(loss.total) for loss in losses) / sum(loss.count for loss in losses)
    assert training_log(out / "cllm")[0]["held_out_ar_loss"] == pytest.approx(mean, rel=1e-3)
