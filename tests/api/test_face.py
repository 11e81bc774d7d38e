"""The public face: light, complete, silent; a run by one call, and its results as data frames."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from families import SMALL

import cllm_bench
from cllm_bench.engine.family_file import read_family


def run(output, **options):
    return cllm_bench.run(
        methods=["jacobi"],
        tasks=["spider"],
        model=str(SMALL),
        limit=3,
        repeats=1,
        threads=1,
        noise_floor=False,
        output=output,
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run."""
    return run(tmp_path_factory.mktemp("finished") / "out").folder


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, cllm_bench\n"
        "assert [name for name in sys.modules if name.startswith('cllm_bench')] == ['cllm_bench']\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'run' in dir(cllm_bench)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_face_is_there():
    for name in cllm_bench.__all__:
        assert getattr(cllm_bench, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cllm_bench.no_such_name


def test_a_run_prints_nothing_and_resumes(tmp_path, capfd):
    heard = []
    first = run(tmp_path / "out", progress=lambda *what: heard.append(what))
    stored = (tmp_path / "out" / "samples.jsonl").read_bytes()
    second = run(tmp_path / "out")
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == stored
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""
    assert heard
    assert first.failed == 0
    assert len(first.rows) == 6
    assert [each.method for each in second.summaries] == ["ar", "jacobi"]
    assert first.table == cllm_bench.table(tmp_path / "out")
    assert cllm_bench.table(tmp_path / "out") == (tmp_path / "out" / "table.md").read_text()


def test_data_frames_equal_the_file(finished):
    lines = (finished / "samples.jsonl").read_text().splitlines()
    found = cllm_bench.load_results(finished)
    rows = found.rows.drop(columns="folder")
    assert len(rows) == len(lines)
    for line, (_, row) in zip(lines, rows.iterrows(), strict=True):
        for name, value in json.loads(line).items():
            ours = list(row[name]) if isinstance(value, list) else row[name]
            assert ours == value or (value is None and ours != ours) or ours is value, name
    assert list(found.summaries["method"]) == ["ar", "jacobi"]
    stored = json.loads((finished / "summary.json").read_text())
    assert list(found.summaries) == ["folder", *stored[0]]


def test_a_folder_without_rows_keeps_its_table(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "out")
    whole = cllm_bench.table(tmp_path / "out")
    (tmp_path / "out" / "samples.jsonl").unlink()
    told = []
    assert cllm_bench.table(tmp_path / "out", tell=told.append) == whole
    assert "no rows; the table is made from its summary.json" in told[0]
    assert list(cllm_bench.load_results(tmp_path / "out").summaries["method"]) == ["ar", "jacobi"]


def test_reference_runs_make_their_tables():
    """Those that README and docs quote: two with gzipped rows, the others by their summaries."""
    reference = Path(__file__).parents[2] / "results" / "reference"
    folders = sorted(file.parent for file in reference.rglob("summary.json"))
    assert len(folders) == 5
    for folder in folders:
        text = cllm_bench.table(folder)
        stored = (folder / "table.md").read_text(encoding="utf-8")
        assert first_table(text) == first_table(stored), folder
    archived = sorted(file.parent.name for file in reference.rglob("samples.jsonl.gz"))
    assert archived == ["mini-cllm", "mini-tasks"]
    for name in archived:
        with gzip.open(reference / name / "samples.jsonl.gz", "rt", encoding="utf-8") as stream:
            stored = [json.loads(line) for line in stream]
        found = cllm_bench.load_results(reference / name).rows
        assert list(found["token_ids"].map(list)) == [line["token_ids"] for line in stored]
        assert list(found["decode_seconds"].dropna()) == [
            line["decode_seconds"] for line in stored if line["decode_seconds"] is not None
        ]


def first_table(text):
    """The methods with their scores and speedups, without the layout of later versions."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines[:8]]


def test_a_training_prints_nothing_and_resumes(tmp_path, capfd):
    recipe = (
        "target:init=scratch,hidden=16,layers=2,heads=2,feed_forward=24,vocabulary=400,"
        "learning_rate=0.01,tokens=512,steps=4"
    )
    output, heard = tmp_path / "mine", []

    def train(**options):
        return cllm_bench.train(
            recipe, output, ["spider:train_questions=400"], threads=1, device="cpu", **options
        )

    first = train(progress=lambda *what: heard.append(what))
    stored = (first.checkpoint / "model.safetensors").read_bytes()
    second = train()
    assert first == second
    assert first.folder == output
    assert (second.checkpoint / "model.safetensors").read_bytes() == stored
    assert list(first.log["step"])[-1] == 4
    assert heard
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_a_user_error_is_an_exception(tmp_path):
    with pytest.raises(cllm_bench.UserError, match="did you mean 'jacobi'"):
        cllm_bench.run(methods=["jacoby"], tasks=["spider"], output=tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run = 3", "must be a table"),
        ('[role]\ntarget = "x"', "unknown key 'role'.*did you mean 'roles'"),
        ("[run]\nthread = 1", "unknown key 'thread' under .run.*did you mean 'threads'"),
        ("[run]\nthreads = true", "not a number of threads"),
    ],
)
def test_unknown_keys_of_a_family_are_refused(tmp_path, text, told):
    (tmp_path / "family.toml").write_text(text)
    with pytest.raises(cllm_bench.UserError, match=told) as error:
        read_family(tmp_path / "family.toml")
    assert "\n" not in str(error.value)
