"""The main job from the command line down, on a tiny family and a tiny task."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import forked
from families import cli, rows, write_task

TIMED = {
    *("prefill_seconds", "decode_seconds", "peak_memory_bytes", "attempt"),
    *("foreign_load", "slowed"),
}


def decided(folder):
    """All that does not depend on the clock, by key."""
    return {
        row["key"]: {name: value for name, value in row.items() if name not in TIMED}
        for row in rows(folder)
    }


def summary(folder):
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {(each["task"], each["method"]): each for each in found}


def test_a_run_leaves_everything(monkeypatch, tmp_path, command, capsys):
    out = tmp_path / "out"
    assert (
        cli(monkeypatch, *command, "--data", tmp_path, "--method", "jacobi", "--output", out) == 0
    )
    assert {"manifest.json", "samples.jsonl", "summary.json", "table.md"} <= set(os.listdir(out))
    stored = rows(out)
    assert len(stored) == 8 * 3 * 2
    assert len({row["key"] for row in stored}) == len(stored)
    found = summary(out)
    assert list(found) == [("counting", "ar"), ("counting", "jacobi")]
    jacobi = found["counting", "jacobi"]
    assert jacobi["exact_match"] == 1.0
    assert jacobi["samples"] == 8
    assert jacobi["failed"] == 0
    assert jacobi["tokens_per_pass"] >= 1.0
    assert jacobi["speedup"] > 0
    assert jacobi["peak_memory_bytes"] is None
    assert jacobi["score"] == found["counting", "ar"]["score"]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["runtime"]["dtype"] == "float32"
    assert manifest["tasks"][0]["left_out"] == {"odd": ["x9"]}
    assert manifest["configuration"]["checkpoints"]["target"].startswith("sha256:")
    assert manifest["sources"] == {
        "target": {
            "kind": "folder",
            "location": str((Path(command[2]) / "target").resolve()),
            "revision": None,
            "fingerprint": manifest["configuration"]["checkpoints"]["target"],
        }
    }
    said = capsys.readouterr().out
    assert said.startswith("jacobi ")
    assert said.endswith(f"all figures: {out / 'table.md'}\n")
    assert (
        (out / "table.md")
        .read_text(encoding="utf-8")
        .startswith("# cllm-bench results\n\n- **jacobi ")
    )


def test_runs_that_differ_in_one_checkpoint_have_other_tables(monkeypatch, tmp_path, command):
    texts = []
    for role in ("other", "target"):
        checkpoint = Path(command[2]) / role
        asked = ["--method", "jacobi:checkpoint=mine", "--role", f"mine={checkpoint}"]
        limits = ["--limit", 1, "--repeats", 1, "--output", tmp_path / role]
        assert cli(monkeypatch, *command, *asked, *limits) == 0
        text = (tmp_path / role / "table.md").read_text(encoding="utf-8")
        (line,) = [line for line in text.splitlines() if line.startswith("- checkpoints: ")]
        assert f"mine `{checkpoint.resolve()}`, weights " in line
        assert f"--role mine={checkpoint}" in text.partition("## To repeat")[2]
        texts.append(line.rpartition(" ")[2])
    assert texts[0] != texts[1]


def test_methods_take_turns_at_every_place(monkeypatch, tmp_path, command):
    out = tmp_path / "out"
    arguments = ["--data", tmp_path, "--method", "jacobi", "--method", "jacobi:block_size=4"]
    assert cli(monkeypatch, *command, *arguments, "--repeats", 3, "--output", out) == 0
    places = {}
    for row in rows(out):
        places.setdefault(row["method"], []).append(row["order"])
    assert set(places) == {"ar", "jacobi", "jacobi:block_size=4"}
    for found in places.values():
        assert sorted(set(found)) == [0, 1, 2]
        assert max(map(found.count, (0, 1, 2))) - min(map(found.count, (0, 1, 2))) <= 3


def test_another_checkpoint_gets_its_own_baseline(monkeypatch, tmp_path, command):
    out = tmp_path / "out"
    arguments = ["--data", tmp_path, "--method", "jacobi:checkpoint=other", "--output", out]
    assert cli(monkeypatch, *command, *arguments) == 0
    found = summary(out)
    methods = [method for _, method in found]
    assert methods == ["ar", "ar:checkpoint=other", "jacobi:checkpoint=other"]
    assert found["counting", "jacobi:checkpoint=other"]["exact_match"] == 1.0


def test_killed_in_the_middle_and_repeated(monkeypatch, tmp_path, command):
    """SIGKILL, then the same command: what an uninterrupted run gives, each row once."""
    arguments = [*command, "--data", tmp_path, "--method", "jacobi", "--repeats", 4]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli(monkeypatch, *arguments, "--output", whole) == 0
    process = forked.start(tmp_path / "log", forked.command, *arguments, "--output", killed)
    samples = killed / "samples.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_alive():
        if samples.exists() and samples.read_bytes().count(b"\n") >= 10:
            break
        time.sleep(0.005)
    process.kill()
    process.join()
    before = samples.read_bytes()
    assert before.count(b"\n") >= 10
    assert cli(monkeypatch, *arguments, "--output", killed) == 0
    assert samples.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert decided(killed) == decided(whole)
    assert len(rows(killed)) == len(rows(whole)) == 8 * 4 * 2


def test_ctrl_c_stops_in_one_line_and_keeps_what_is_stored(monkeypatch, tmp_path, command, capsys):
    import cllm_bench.measurement.executor as answering

    arguments = [*command, "--data", tmp_path, "--method", "jacobi", "--output", tmp_path / "out"]
    real, stored = answering.generate, tmp_path / "out" / "samples.jsonl"

    def interrupted(*given, **options):
        if stored.exists() and len(rows(tmp_path / "out")) > 4:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(answering, "generate", interrupted)
    assert cli(monkeypatch, *arguments) == 130
    assert "stopped; what is stored stays" in capsys.readouterr().err
    assert 0 < len(rows(tmp_path / "out")) < 8 * 3 * 2
    monkeypatch.setattr(answering, "generate", real)
    assert cli(monkeypatch, *arguments) == 0
    assert len(rows(tmp_path / "out")) == 8 * 3 * 2


def test_a_damaged_last_line_is_told_and_measured_again(monkeypatch, tmp_path, command, capsys):
    arguments = [*command, "--data", tmp_path, "--method", "jacobi", "--output", tmp_path / "out"]
    assert cli(monkeypatch, *arguments) == 0
    samples = tmp_path / "out" / "samples.jsonl"
    expected = decided(tmp_path / "out")
    samples.write_bytes(samples.read_bytes()[:-40])
    capsys.readouterr()
    assert cli(monkeypatch, *arguments) == 0
    assert "last line" in " ".join(capsys.readouterr().err.split())
    assert decided(tmp_path / "out") == expected


def test_a_finished_run_is_shown_again_without_measuring(monkeypatch, tmp_path, command):
    arguments = [*command, "--data", tmp_path, "--method", "ar", "--output", tmp_path / "out"]
    assert cli(monkeypatch, *arguments) == 0
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    assert cli(monkeypatch, *arguments) == 0
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


def test_the_default_output_is_found_again(monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        arguments = [*command, "--data", tmp_path, "--method", "ar", "--limit", 2]
        assert cli(monkeypatch, *arguments) == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert len(rows(folder)) == 2 * 3
    assert folder.name.startswith("tiny-counting-")


def test_a_failing_sample_is_a_row_and_exit_code_1(monkeypatch, tmp_path, command, capsys):
    plugin = tmp_path / "moody.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from cllm_bench.contracts import Step\n"
        "@dataclass(frozen=True)\n"
        "class Moody:\n"
        "    '''Fails on long prompts.'''\n"
        "    exactness = 'exact'\n"
        "    checkpoint: str = 'target'\n"
        "    def bind(self, family):\n"
        "        session = family.session(self.checkpoint)\n"
        "        def decode(prompt_ids, sampling):\n"
        "            if len(prompt_ids) > 3:\n"
        "                raise RuntimeError('too long\\nfor me')\n"
        "            token = session.prefill(prompt_ids).logits.argmax(-1)\n"
        "            while True:\n"
        "                yield Step((int(token) + 1,))  # never the model's choice\n"
        "                token = session.forward(token).logits.argmax(-1)\n"
        "                session.keep(1)\n"
        "        return decode\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    arguments = ["--data", tmp_path, "--plugin", plugin, "--method", "moody", "--output", out]
    assert cli(monkeypatch, *command, *arguments) == 1
    failed = [row for row in rows(out) if row["finish"] == "failed"]
    assert failed
    assert {row["method"] for row in failed} == {"moody"}
    assert failed[0]["error"] == "RuntimeError: too long for me"
    answered = [row for row in rows(out) if row["method"] == "moody" and row["token_ids"]]
    assert {row["verdict"] for row in answered} == {"mismatch"}
    assert {row["first_difference"] for row in answered} == {0}
    found = summary(out)["counting", "moody"]
    assert found["failed"] == len(failed) / 3
    assert found["exact_match"] < 1.0
    assert "samples failed" in capsys.readouterr().err


def test_an_edited_plugin_does_not_go_on_with_old_rows(monkeypatch, tmp_path, tiny, capsys):
    plugin = write_task(tmp_path)
    arguments = ["run", "--model", tiny[0], "--plugin", plugin, "--task", "counting"]
    arguments += ["--data", tmp_path, "--method", "ar", "--output", tmp_path / "out"]
    arguments += ["--threads", 1, "--no-noise-floor", "--limit", 2, "--repeats", 1]
    assert cli(monkeypatch, *arguments) == 0
    plugin.write_text(plugin.read_text() + "# other\n")
    assert cli(monkeypatch, *arguments) == 2
    assert "configuration.code" in capsys.readouterr().err


def test_a_full_disk_is_told_and_nothing_stored_is_lost(monkeypatch, tmp_path, command, capsys):
    import errno

    import cllm_bench.results.folder as results

    arguments = [*command, "--data", tmp_path, "--method", "jacobi", "--output", tmp_path / "out"]
    real, calls = results.append, []

    def full(file, data):
        calls.append(file)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    def wrapped(file, data):
        from cllm_bench.core.files import writing

        with writing(file):
            full(file, data)

    monkeypatch.setattr(results, "append", wrapped)
    assert cli(monkeypatch, *arguments) == 2
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert len(rows(tmp_path / "out")) > 0
    monkeypatch.setattr(results, "append", real)
    assert cli(monkeypatch, *arguments) == 0
    assert len(rows(tmp_path / "out")) == 8 * 3 * 2


def test_table_from_stored_rows_alone(monkeypatch, tmp_path, command, capsys):
    arguments = ["--data", tmp_path, "--method", "jacobi", "--output", tmp_path / "out"]
    assert cli(monkeypatch, *command, *arguments) == 0
    for derived in ("summary.json", "table.md"):
        (tmp_path / "out" / derived).unlink()
    capsys.readouterr()
    code = (
        "import sys\n"
        f"sys.argv = ['cllm-bench', 'table', {str(tmp_path / 'out')!r}]\n"
        "from cllm_bench.cli.app import main\n"
        "main()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| jacobi " in done.stdout
    assert cli(monkeypatch, "table", tmp_path) == 2
