"""Stored perplexities: lines that read back."""

from __future__ import annotations

import json

import pytest
from perplexities import measured

from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.perplexity import parse_perplexity


def test_stored_lines_read_back():
    found = measured()
    assert parse_perplexity(json.loads(json.dumps(found.to_json()))) == found
    for key, value in (
        ("nll", "x"),
        ("windows", -1),
        ("parts", [[1]]),
        ("task", 3),
        ("words", 1.5),
    ):
        with pytest.raises(ValueError, match=f"'{key}' is "):
            parse_perplexity(json.loads(json.dumps(found.to_json())) | {key: value})
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_perplexity([])


def test_a_folder_that_is_closed_stores_nothing(tmp_path):
    with ResultFolder.open(tmp_path / "run", {"configuration": {}}) as folder:
        folder.append_perplexity(measured())
    assert ResultFolder.read(tmp_path / "run").perplexities == {"target": measured()}
    with pytest.raises(RuntimeError, match="not open"):
        folder.append_perplexity(measured("b"))
