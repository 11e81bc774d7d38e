"""`--config`: a stored run repeated from its own configuration, and what is wrong in a file."""

import tomllib
from dataclasses import fields

import pytest
from families import cli, rows

from cllm_bench.api import options as declarations
from cllm_bench.core.options import Options, declared


def replies(folder):
    return [(row["sample"], row["method"], row["token_ids"]) for row in rows(folder)]


def test_a_run_is_repeated_by_its_own_configuration(tmp_path, command, monkeypatch, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    asked = [*command, "--method", "jacobi:block_size=4", "--limit", 2, "--repeats", 1]
    assert cli(monkeypatch, *asked, "--output", first) == 0
    stored = tomllib.loads((first / "config.toml").read_text())
    assert stored["methods"] == ["jacobi:block_size=4"]
    assert stored["device"] == "cpu"
    assert stored["noise_floor"] is False
    assert stored["output"] == str(first)
    assert "judge" not in stored
    assert cli(monkeypatch, "run", "--config", first / "config.toml", "--output", second) == 0
    assert replies(second) == replies(first)
    again = tomllib.loads((second / "config.toml").read_text())
    assert again == stored | {"output": str(second)}
    before = (first / "samples.jsonl").read_bytes()
    assert cli(monkeypatch, "run", "--config", first / "config.toml") == 0  # the same run: resumed
    assert (first / "samples.jsonl").read_bytes() == before
    capsys.readouterr()


def test_flags_override_the_file(tmp_path, command, monkeypatch, capsys):
    file = tmp_path / "mine.toml"
    file.write_text('methods = ["jacobi"]\nlimit = 2\nrepeats = 1\n')
    out = tmp_path / "out"
    asked = [*command, "--config", file, "--limit", 1, "--output", out]
    assert cli(monkeypatch, *asked) == 0
    assert len({row["sample"] for row in rows(out)}) == 1
    assert {row["repeat"] for row in rows(out)} == {0}
    capsys.readouterr()


@pytest.mark.parametrize("name", ["run", "train", "ablate"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "mini"', "unknown key 'modle'; did you mean 'model'?"),
        ("model = 3", "model = 3 must be a string"),
    ],
)
def test_a_wrong_key_is_one_line(tmp_path, monkeypatch, capsys, name, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert cli(monkeypatch, name, "--config", file) == 2
    error = capsys.readouterr().err
    assert error == f"error: {file}: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "spider"], "RECIPE is missing: the training recipe"),
        (["train", "target", "--task", "spider"], "--output is missing: the family folder"),
        (["ablate", "target", "--task", "spider"], "--output is missing: the folder of trainings"),
        (["judge", "somewhere"], "--judge is missing: the model that grades"),
        (["run", "--task", "spider"], "--method is missing; known: ar,"),
        (["table"], "FOLDERS is missing"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, capsys, arguments, message):
    assert cli(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_option_of_every_command_has_a_sentence_of_help():
    classes = [
        each
        for name, each in vars(declarations).items()
        if name.endswith("Options") and isinstance(each, type) and each is not Options
    ]
    assert len(classes) == 15
    for cls in classes:
        own = [each for each in fields(cls) if each.name not in ("_", "progress")]
        found = declared(cls)
        assert [each.name for each in found] == [each.name for each in own]
        for each in found:
            assert each.option.help.rstrip().endswith((".", "…"))
            assert each.option.help[0].isupper() or each.option.help[0] == "`"
