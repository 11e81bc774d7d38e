"""The example package: in style, contract kept, installed by pip, found, listed and run."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from families import cli

from cllm_bench.testing.methods import method_suite

EXAMPLE = Path(__file__).parents[2] / "examples" / "cllm-bench-bigram"
MODULE = EXAMPLE / "cllm_bench_bigram.py"

test_the_example_keeps_the_contract = pytest.mark.usefixtures("fewer_draws")(
    method_suite(runpy.run_path(str(MODULE), run_name="cllm_bench_bigram")["Bigram"])
)


def test_the_example_is_short():
    assert len(MODULE.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside it
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_it_is_listed(installed):
    command = [sys.executable, "-m", "cllm_bench", "list"]
    environment = {**os.environ, "PYTHONPATH": os.fspath(installed), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    shown = done.stdout
    (row,) = [line for line in shown.splitlines() if "cllm-bench-bigram" in line]
    assert "bigram" in row
    assert "guesses=4" in row


def test_it_gives_a_row(monkeypatch, installed, command, tmp_path):
    monkeypatch.syspath_prepend(str(installed))
    options = ["--data", "built-in", "--limit", 3, "--repeats", 1, "--output", tmp_path / "out"]
    assert cli(monkeypatch, *command, *options, "--method", "bigram:guesses=2") == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in rows] == ["ar", "bigram:guesses=2"]
    assert all(row["exact_match"] == 1.0 for row in rows)
