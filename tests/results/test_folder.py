from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cllm_bench.errors import UserError
from cllm_bench.results.folder import ResultFolder, Row, row_key
from cllm_bench.results.rows import parse_row

MANIFEST: dict[str, Any] = {
    "configuration": {"seed": 0, "tasks": ["spider"], "cells": [{"method": "ar"}, {"method": "x"}]},
    "created": "2026-01-01T00:00:00Z",
}


def row(sample: str = "q1", **changes: Any) -> Row:
    base = Row(
        key=row_key(sample=sample, method="ar"),
        task="spider",
        sample=sample,
        method="ar",
        checkpoint="target",
        repeat=0,
        order=0,
        attempt=0,
        prompt_tokens=12,
        token_ids=(5, 6, 7),
        prefill_tokens=1,
        accept_lengths=(1, 1),
        drafted=(0, 0),
        prefill_seconds=0.01,
        decode_seconds=0.02,
        finish="stop",
        error=None,
        reply="SELECT 'é\ud800'",
        score=1.0,
        verdict="exact",
        first_difference=None,
        repetitive=False,
        counters={"fast_forwarded": 1.5},
        peak_memory_bytes=None,
    )
    return replace(base, **changes)


def stored(path: Path, *rows: Row) -> Path:
    with ResultFolder.open(path, MANIFEST) as folder:
        folder.append(rows)
    return path


def test_counts_leave_the_first_step_to_the_prefill() -> None:
    assert row().decoded_tokens == 2
    assert row().passes == 2
    assert row(prefill_tokens=3, accept_lengths=()).decoded_tokens == 0
    assert row(token_ids=(), prefill_tokens=0, accept_lengths=()).decoded_tokens == 0


def test_rows_of_earlier_versions_settled_one_token_in_their_prefill() -> None:
    old = row().to_json()
    del old["prefill_tokens"]
    assert parse_row(json.loads(json.dumps(old))) == row()


def test_row_key_is_stable_short_and_ignores_the_order_of_parts() -> None:
    assert row_key(a=1, b=[2]) == row_key(b=[2], a=1)
    assert row_key(a=1) != row_key(a="1")
    assert row_key(a=1) == "015abd7f5cc57a2dd94b7590"  # a resume years later must find its rows


def test_manifest_is_there_before_any_row(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "deep" / "run", MANIFEST) as folder:
        assert json.loads((folder.path / "manifest.json").read_text()) == MANIFEST
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
        later = {**MANIFEST, "created": f"later {attempt}"}
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
    same = {**MANIFEST, "configuration": {**MANIFEST["configuration"], "tasks": ("spider",)}}
    ResultFolder.open(path, same).close()


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
    other = {**MANIFEST, "configuration": {**MANIFEST["configuration"], **change}}
    with pytest.raises(UserError) as caught:
        ResultFolder.open(path, other)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finish": "tired"}, "'finish' is 'tired', not one of stop"),
        ({"repeat": True}, "'repeat' is True, not an integer"),
        ({"score": "1"}, "'score' is '1', not a finite number"),
        ({"token_ids": [1, 2.5]}, "'token_ids' is .*not an integer"),
        ({"counters": {"a": None}}, "'counters'"),
        ({"repetitive": 0}, "not true or false"),
    ],
)
def test_a_row_of_the_wrong_kind_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = stored(tmp_path / "run")
    (path / "samples.jsonl").write_text(json.dumps({**row().to_json(), **change}) + "\n")
    with pytest.raises(UserError, match=f"line 1 .*{message}"):
        ResultFolder.read(path)


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
    assert json.loads(last) == MANIFEST


def test_derived_files_are_replaced_whole(tmp_path: Path) -> None:
    folder = ResultFolder.read(stored(tmp_path / "run"))
    folder.write_text("table.md", "old, and longer")
    folder.write_text("table.md", "new ×")
    assert (folder.path / "table.md").read_text(encoding="utf-8") == "new ×"
    with pytest.raises(UserError, match="cannot write"):
        folder.write_text("missing/table.md", "x")
