"""An edited program never goes on with the rows of the old one, however deep the edit lies."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cllm_bench.machine.environment import code_hash, code_place


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a class two folders down."""
    deep = tmp_path / "planted_package" / "inner" / "deeper"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent, deep.parent.parent):
        (folder / "__init__.py").write_text("")
    (deep / "module.py").write_text("class Planted:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield deep
    for name in [name for name in sys.modules if name.startswith("planted_package")]:
        del sys.modules[name]


def test_a_class_belongs_to_its_top_package(package):
    planted = importlib.import_module("planted_package.inner.deeper.module").Planted
    assert code_place(planted) == package.parent.parent


def test_a_file_two_folders_down_counts(package):
    top = package.parent.parent
    before = code_hash(top)
    assert code_hash(top) == before
    (package / "module.py").write_text("class Planted:\n    edited = True\n")
    assert code_hash(top) != before


def test_a_moved_file_counts(package):
    top = package.parent.parent
    before = code_hash(top)
    (package / "module.py").rename(package.parent / "module.py")
    assert code_hash(top) != before


ROOT = Path(__file__).parents[2]
PACKAGES = {
    "cllm_bench": "cllm_bench",
    "methods": "cllm_bench_methods",
    "tasks": "cllm_bench_tasks",
}
# Runs the command, edits a file, and runs it again: for each file, what came of it.
REPEATING = """
import contextlib, io, json, os, sys
from pathlib import Path

import cllm_bench
from cllm_bench.cli.app import main
from cllm_bench.machine import roofline

roofline.bandwidth = lambda device: None  # which takes a second
top = Path(cllm_bench.__file__).parents[1]
assert top == Path.cwd(), top

def run():
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            return end.code or 0, said.getvalue()
    return 0, said.getvalue()

found = {"first": run()}
for name in json.loads(os.environ["EDITED"]):
    text = (top / name).read_text()
    (top / name).write_text(text + "# edited\\n")
    found[name] = run()
    (top / name).write_text(text)
found["restored"] = run()
print(json.dumps(found))
"""


def test_a_run_of_an_edited_program_is_refused(tmp_path, command):
    """The whole command, on a copy of the program: engine, method and a task's deepest folder."""
    program = tmp_path / "program"
    for folder, package in PACKAGES.items():
        left = shutil.ignore_patterns("__pycache__", "models")
        shutil.copytree(ROOT / folder, program / package, ignore=left)
    edited = ["cllm_bench/engine/attention.py", "cllm_bench_methods/jacobi/mechanism.py"]
    other = "cllm_bench_tasks/spider/builtin/rows.py"
    out = tmp_path / "out"
    command = [*command, "--data", f"counting={tmp_path}", "--method", "jacobi", "--output", out]
    command += ["--task", "spider:max_new_tokens=2", "--data", "spider=built-in"]
    command += ["--limit", 2, "--repeats", 1]
    environment = {"PYTHONPATH": str(program), "EDITED": json.dumps([*edited, other])}
    done = subprocess.run(
        [sys.executable, "-c", REPEATING, *map(str, command)],
        env=os.environ | environment,
        cwd=program,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["first"][0] == 0, found["first"]
    rows = (out / "samples.jsonl").read_bytes()
    assert rows.count(b"\n") == 2 * 2 * 2
    for file in (*edited, other):
        code, said = found[file]
        package = file.partition("/")[0]
        assert code == 2
        assert f"configuration.code.{package}" in said
        assert len(said.strip().splitlines()) == 1
    assert found["restored"][0] == 0
    assert (out / "samples.jsonl").read_bytes() == rows
