"""`new-method` leaves a method that works, and never harms a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from families import cli

from cllm_bench.core.registry import Registry

ROOT = Path(__file__).parents[2]
GUESS = "return [seen[-1]] * self.settings.guesses"


@pytest.fixture
def written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli(monkeypatch, "new-method", "my_idea") == 0
    return tmp_path / "my_idea.py"


@pytest.mark.usefixtures("fewer_draws", "few_models")
def test_it_keeps_the_contract_as_written(monkeypatch, written, capsys):
    assert cli(monkeypatch, "check-method", "my_idea", "--plugin", "my_idea.py") == 0
    assert "14 checks: 13 passed, 1 skipped" in capsys.readouterr().out


def test_it_settles_one_token_a_pass_until_it_guesses(monkeypatch, written, command):
    out = written.parent / "out"
    written.write_text(written.read_text().replace("        return []", f"        {GUESS}"))
    asked = ["--data", "built-in", "--method", "my_idea", "--output", out]
    assert cli(monkeypatch, *command, *asked, "--plugin", "my_idea.py", "--repeats", 1) == 0
    rows = {each["method"]: each for each in json.loads((out / "summary.json").read_text())}
    assert rows["my_idea"]["exact_match"] == 1.0
    assert rows["ar"]["tokens_per_pass"] == 1.0
    assert rows["my_idea"]["tokens_per_pass"] > 1.0


def test_it_names_the_class_the_file_and_what_to_change(monkeypatch, tmp_path, capsys):
    file = tmp_path / "there.py"
    assert cli(monkeypatch, "new-method", "two_at_once", "--output", file) == 0
    assert f"cllm-bench check-method two_at_once --plugin {file}" in capsys.readouterr().out
    assert Registry([file]).methods.get("two_at_once").__name__ == "TwoAtOnce"
    text = file.read_text()
    assert f"--plugin {file}" in text
    assert GUESS in text


def test_it_is_in_style(written):
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", *command, "--config", ROOT / "pyproject.toml", written],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["My-Idea"], "'My-Idea' cannot be a method's name"),
        (["class"], "no word of Python's own"),
        (["a_b"], "two characters or more"),
        (["1st"], "cannot be a method's name"),
        (["jacobi"], "there is a method 'jacobi' already"),
        (["other", "--output", "my_idea.py"], "'my_idea.py' is there already"),
        (["other", "--output", "nowhere/other.py"], "in a folder that is there"),
        (["other", "--output", "other.txt"], "no Python file (.py)"),
    ],
)
def test_what_it_refuses(monkeypatch, written, capsys, arguments, message):
    before = {path: path.read_bytes() for path in written.parent.iterdir()}
    assert cli(monkeypatch, "new-method", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert {path: path.read_bytes() for path in written.parent.iterdir()} == before
