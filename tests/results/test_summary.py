from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import manifest, row

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.errors import UserError
from cllm_bench.report.summary import summarise
from cllm_bench.results.summary import Summary, read_summaries

LATER = (
    *("schema", "extra_parameters", "bandwidth_share", "foreign_load", "slowed", "judge"),
    *("throttled", "sm_clock_mhz", "clock_difference"),
)


def found() -> list[Summary]:
    paces = {"ar": 1.0, "jacobi": 0.5}
    rows = [row(method, f"q{i}", pace) for method, pace in paces.items() for i in range(6)]
    return summarise(manifest(), rows)


def write(path: Path, objects: object) -> Path:
    file = path / "summary.json"
    file.write_text(json.dumps(objects), encoding="utf-8")
    return file


def test_what_is_stored_reads_back(tmp_path: Path) -> None:
    objects = [each.to_json() for each in found()]
    assert read_summaries(write(tmp_path, objects)) == found()
    assert {each["schema"] for each in objects} == {SCHEMA}


def test_early_summaries(tmp_path: Path) -> None:
    objects = [
        {name: value for name, value in each.to_json().items() if name not in LATER}
        for each in found()
    ]
    first = read_summaries(write(tmp_path, objects))[0]
    assert (first.schema, first.extra_parameters, first.slowed, first.judge) == (1, None, {}, None)
    assert first.throttled is first.sm_clock_mhz is first.clock_difference is None
    assert first.score == 1.0


def test_a_later_schema_and_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    objects = [each.to_json() for each in found()]
    for written, message in (
        ([objects[0] | {"schema": SCHEMA + 1}], f"has schema version {SCHEMA + 1}, and this"),
        ([objects[0] | {"score": "x"}], "is damaged ('score' is 'x', not a finite number)"),
        ([3], "is damaged (not a JSON object)"),
        ({}, "is damaged (not a JSON list)"),
    ):
        file = write(tmp_path, written)
        with pytest.raises(UserError) as caught:
            read_summaries(file)
        assert str(caught.value).startswith(f"'{file}' {message}")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        read_summaries(tmp_path / "none.json")
