from __future__ import annotations

import errno
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import manifest
from synthetic import row as synthetic_row

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.errors import UserError
from cllm_bench.results.folder import ResultFolder, Row, row_key
from cllm_bench.results.manifest import Manifest

CONFIGURATION: dict[str, Any] = {
    "seed": 0,
    "tasks": ["spider"],
    "cells": [{"method": "ar"}, {"method": "x"}],
}
MANIFEST = manifest(schema=SCHEMA, configuration=CONFIGURATION)


def begun_with(**changes: Any) -> Manifest:
    return replace(MANIFEST, configuration=CONFIGURATION | changes)


def row(sample: str = "q1", **changes: Any) -> Row:
    key = row_key(sample=sample, method="ar")
    # What a byte-level tokenizer may leave: half of a surrogate pair.
    return synthetic_row("ar", sample, **{"key": key, "reply": "SELECT 'é\ud800'", **changes})


def stored(path: Path, *rows: Row) -> Path:
    with ResultFolder.open(path, MANIFEST) as folder:
        folder.append(rows)
    return path


def test_manifest_is_there_before_any_row(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "deep" / "run", MANIFEST) as folder:
        written = json.loads((folder.path / "manifest.json").read_text())
        assert written == json.loads(json.dumps(MANIFEST.to_json()))
        assert next(iter(written.items())) == ("schema", SCHEMA)
        assert (folder.attempt, folder.rows, folder.warnings) == (0, [], [])
        assert not list(folder.path.glob("*.tmp"))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    failed = row(
        "q2",
        finish="failed",
        error="boom",
        score=None,
        decode_seconds=None,
        verdict=None,
        reply=None,
    )
    path = stored(tmp_path / "run", row(), failed)
    folder = ResultFolder.read(path)
    assert folder.rows == [row(), failed]
    assert folder.done == {row().key, failed.key}
    first = (path / "samples.jsonl").read_text().splitlines()[0]
    assert list(json.loads(first)) == list(Row.__dataclass_fields__)


def test_resume_keeps_the_stored_manifest_and_appends_its_own(tmp_path: Path) -> None:
    path = stored(tmp_path / "run", row())
    before = (path / "manifest.json").read_bytes(), (path / "samples.jsonl").read_bytes()
    for attempt in (1, 2):
        later = replace(MANIFEST, created=f"later {attempt}")
        with ResultFolder.open(path, later) as folder:
            assert folder.attempt == attempt
            assert folder.manifest == MANIFEST
            assert folder.done == {row().key}
    assert ((path / "manifest.json").read_bytes(), (path / "samples.jsonl").read_bytes()) == before
    lines = (path / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["created"] for line in lines] == ["later 1", "later 2"]
    assert ResultFolder.read(path).attempt == 2


def test_attempts_count_on_from_the_rows_if_their_list_is_gone(tmp_path: Path) -> None:
    path = stored(tmp_path / "run", row(attempt=4))
    with ResultFolder.open(path, MANIFEST) as folder:
        assert folder.attempt == 5


def test_tuples_in_the_configuration_equal_the_stored_lists(tmp_path: Path) -> None:
    path = stored(tmp_path / "run")
    ResultFolder.open(path, begun_with(tasks=("spider",))).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "configuration.seed = 0, and this one has 1; pick another --output"),
        (
            {"cells": [{"method": "ar"}, {"method": "y"}]},
            'cells[1].method = "x", and this one has "y"',
        ),
        ({"limit": 7}, "configuration.limit = null, and this one has 7"),
    ],
)
def test_another_configuration_is_refused_by_its_first_difference(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = stored(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        ResultFolder.open(path, begun_with(**change))
    assert message in str(caught.value)
    assert not (path / "attempts.jsonl").exists()
    ResultFolder.open(path, MANIFEST).close()  # the refused attempt let go of the lock


def test_foreign_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        ResultFolder.open(tmp_path, MANIFEST)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        ResultFolder.open(tmp_path / "thesis.tex", MANIFEST)
    with pytest.raises(UserError, match="no result folder"):
        ResultFolder.read(tmp_path)


def test_a_run_killed_before_its_manifest_left_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.tmp").write_text("{")
    ResultFolder.open(tmp_path, MANIFEST).close()
    assert ResultFolder.read(tmp_path).manifest == MANIFEST


def test_a_damaged_manifest_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json' is damaged"):
        ResultFolder.read(tmp_path)


@pytest.mark.parametrize("garbage", [b'{"key": "ab', b"\0\0\0\0", b'{"key": \xff\n', b"\xc3"])
def test_a_cut_last_line_is_moved_aside_and_the_run_goes_on(tmp_path: Path, garbage: bytes) -> None:
    path = stored(tmp_path / "run", row("q1"))
    file = path / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + garbage)
    looking = ResultFolder.read(path)
    assert looking.rows == [row("q1")]
    assert "ignored" in looking.warnings[0]
    assert file.read_bytes() == whole + garbage  # looking changes nothing
    with ResultFolder.open(path, MANIFEST) as folder:
        assert "samples.jsonl.damaged" in folder.warnings[0]
        assert file.read_bytes() == whole
        folder.append([row("q2")])
    assert (path / "samples.jsonl.damaged").read_bytes() == garbage
    assert [r.sample for r in ResultFolder.read(path).rows] == ["q1", "q2"]


def test_only_a_fragment(tmp_path: Path) -> None:
    path = stored(tmp_path / "run")
    (path / "samples.jsonl").write_bytes(b'{"key"')
    with ResultFolder.open(path, MANIFEST) as folder:
        assert folder.rows == []
        folder.append([row()])
    assert ResultFolder.read(path).rows == [row()]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path / "run", row("q1"), row("q2"))
    file = path / "samples.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"{oops}\n" + second)
    with pytest.raises(UserError, match="line 2 is damaged"):
        ResultFolder.open(path, MANIFEST)


def test_a_missing_key_is_named_and_an_unknown_one_is_not_minded(tmp_path: Path) -> None:
    path = stored(tmp_path / "run")
    file = path / "samples.jsonl"
    file.write_text(json.dumps({**row().to_json(), "energy_joules": 3}) + "\n")
    assert ResultFolder.read(path).rows == [row()]
    without = row().to_json()
    del without["verdict"]
    file.write_text(json.dumps(without) + "\n")
    with pytest.raises(UserError, match="no 'verdict'"):
        ResultFolder.read(path)


def test_the_first_of_two_rows_with_one_key_wins(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with ResultFolder.open(path, MANIFEST) as folder:
        folder.append([row(order=1), row(order=2)])
        folder.append([row(order=3)])
        assert [r.order for r in folder.rows] == [1]
    with (path / "samples.jsonl").open("a") as file:
        file.write(json.dumps(row(order=4).to_json()) + "\n")
    assert [r.order for r in ResultFolder.read(path).rows] == [1]


def test_only_one_process_writes(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "run", MANIFEST):
        with pytest.raises(UserError, match="in use by another run"):
            ResultFolder.open(tmp_path / "run", MANIFEST)
        ResultFolder.read(tmp_path / "run")  # a table may be made meanwhile
    ResultFolder.open(tmp_path / "run", MANIFEST).close()


def test_a_folder_that_was_forgotten_lets_go_of_its_lock(tmp_path: Path) -> None:
    ResultFolder.open(tmp_path / "run", MANIFEST)
    ResultFolder.open(tmp_path / "run", MANIFEST).close()


def test_a_folder_that_is_only_read_takes_no_rows(tmp_path: Path) -> None:
    path = stored(tmp_path / "run")
    with pytest.raises(RuntimeError, match="not open for writing"):
        ResultFolder.read(path).append([row()])


@pytest.mark.parametrize(
    "change", [{"score": float("nan")}, {"counters": {"a": float("inf")}}, {"score": object()}]
)
def test_values_that_json_lacks_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with ResultFolder.open(tmp_path / "run", MANIFEST) as folder:
        with pytest.raises(UserError, match="sample 'q2' of spider by ar"):
            folder.append([row("q1"), row("q2", **change)])
        assert folder.rows == []
        assert not (folder.path / "samples.jsonl").exists()


def test_a_full_disk_is_a_user_error_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ResultFolder.open(tmp_path / "run", MANIFEST)
    folder.append([row("q1")])
    real = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(
            UserError, match=r"samples.jsonl': No space left on device; free some space"
        ):
            folder.append([row("q2")])
    assert folder.done == {row("q1").key}
    folder.append([row("q2")])  # somebody made room
    folder.close()
    again = ResultFolder.read(folder.path)
    assert [r.sample for r in again.rows] == ["q1", "q2"]
    assert again.warnings == []


def test_a_cut_line_of_attempts_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = stored(tmp_path / "run")
    (path / "attempts.jsonl").write_text('{"crea')
    ResultFolder.open(path, MANIFEST).close()
    last = (path / "attempts.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == json.loads(json.dumps(MANIFEST.to_json()))


def test_derived_files_are_replaced_whole(tmp_path: Path) -> None:
    folder = ResultFolder.read(stored(tmp_path / "run"))
    folder.write_text("table.md", "old, and longer")
    folder.write_text("table.md", "new ×")
    assert (folder.path / "table.md").read_text(encoding="utf-8") == "new ×"
    with pytest.raises(UserError, match="cannot write"):
        folder.write_text("missing/table.md", "x")


# Versions.


def earlier(path: Path, **changes: Any) -> Path:
    """Rewrite a folder's manifest as a version without schema numbers would have left it."""
    file = path / "manifest.json"
    stored_ = json.loads(file.read_text()) | changes
    stored_.pop("schema", None)
    file.write_text(json.dumps(stored_))
    return path


def test_a_folder_without_a_schema_version_is_read_and_resumed(tmp_path: Path) -> None:
    path = earlier(stored(tmp_path / "run", row("q1")))
    assert ResultFolder.read(path).manifest.schema == 1
    with ResultFolder.open(path, MANIFEST) as folder:
        assert folder.manifest == replace(MANIFEST, schema=1)
        folder.append([row("q2")])
    assert "schema" not in json.loads((path / "manifest.json").read_text())
    assert [each.sample for each in ResultFolder.read(path).rows] == ["q1", "q2"]


def test_what_is_compared_is_what_is_stored(tmp_path: Path) -> None:
    """Not what a reader makes of it: a key that an earlier version lacks is a difference."""
    path = stored(tmp_path / "run")
    without = {name: value for name, value in CONFIGURATION.items() if name != "seed"}
    earlier(path, configuration=without)
    with pytest.raises(UserError, match=r"configuration\.seed = null, and this one has 0"):
        ResultFolder.open(path, MANIFEST)


WAYS = {
    "read": ResultFolder.read,
    "claim": ResultFolder.claim,
    "open": lambda path: ResultFolder.open(path, MANIFEST),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_later_schema_is_refused_in_one_line(tmp_path: Path, way: str) -> None:
    path = stored(tmp_path / "run", row())
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": SCHEMA + 1}))
    with pytest.raises(UserError) as caught:
        WAYS[way](path)
    assert str(caught.value) == (
        f"'{file}' has schema version {SCHEMA + 1}, and this cllm-bench reads versions up to "
        f"{SCHEMA}; upgrade it: pip install --upgrade cllm-bench"
    )
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": "two"}))
    with pytest.raises(UserError, match="'schema' is 'two', not an integer"):
        ResultFolder.read(path)


def test_a_damaged_key_of_the_manifest_is_named(tmp_path: Path) -> None:
    path = earlier(stored(tmp_path / "run"), seed="0")
    with pytest.raises(UserError, match=r"manifest.json' is damaged \('seed' is '0', not an int"):
        ResultFolder.read(path)


def test_an_ablation_is_no_run(tmp_path: Path) -> None:
    path = earlier(stored(tmp_path / "out"), configuration={"ablation": "cllm"})
    with pytest.raises(UserError, match=r"holds an ablation; its run is in '.*/out/run'"):
        ResultFolder.read(path)


# Archived folders, whose rows are compressed.


def packed(path: Path, *, keep: bool = False) -> Path:
    file = path / "samples.jsonl"
    (path / "samples.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    if not keep:
        file.unlink()
    return path


def test_compressed_rows_are_read(tmp_path: Path) -> None:
    path = packed(stored(tmp_path / "run", row("q1"), row("q2", attempt=1)))
    folder = ResultFolder.read(path)
    assert folder.rows == [row("q1"), row("q2", attempt=1)]
    assert (folder.attempt, folder.warnings) == (1, [])


def test_attempts_of_an_archive_count(tmp_path: Path) -> None:
    path = stored(tmp_path / "run", row())
    ResultFolder.open(path, MANIFEST).close()
    file = path / "attempts.jsonl"
    (path / "attempts.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    assert ResultFolder.read(packed(path)).attempt == 1


@pytest.mark.parametrize("way", ["open", "claim"])
def test_nothing_is_added_to_compressed_rows(tmp_path: Path, way: str) -> None:
    path = packed(stored(tmp_path / "run", row()))
    before = sorted(path.iterdir())
    with pytest.raises(UserError) as caught:
        WAYS[way](path)
    packed_rows = path / "samples.jsonl.gz"
    assert str(caught.value) == (
        f"'{packed_rows}' is compressed, so nothing can be added to this run; unpack it first: "
        f"gunzip '{packed_rows}'"
    )
    assert sorted(path.iterdir()) == before
    ResultFolder.read(path)  # and the lock is free
    packed_rows.unlink()
    ResultFolder.open(path, MANIFEST).close()


def test_rows_beside_a_compressed_copy_count(tmp_path: Path) -> None:
    path = packed(stored(tmp_path / "run", row("q1")), keep=True)
    with ResultFolder.open(path, MANIFEST) as folder:
        folder.append([row("q2")])
    assert [each.sample for each in ResultFolder.read(path).rows] == ["q1", "q2"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" + data])
def test_a_damaged_archive_is_a_user_error(tmp_path: Path, damage: Any) -> None:
    path = packed(stored(tmp_path / "run", row()))
    file = path / "samples.jsonl.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"samples.jsonl.gz' is damaged \(.*\); restore") as caught:
        ResultFolder.read(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_line_of_an_archive_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path / "run", row())
    with (path / "samples.jsonl").open("a") as file:
        file.write("{}\n{}\n")
    with pytest.raises(UserError, match=r"samples.jsonl.gz' line 2 is damaged \(no 'key'\)"):
        ResultFolder.read(packed(path))
