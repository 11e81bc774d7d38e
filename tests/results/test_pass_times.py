from __future__ import annotations

import json
from typing import Any

import pytest

from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.schema import parse

STORED = {
    "task": "a",
    "shape": "5 target after draft",
    "context": 90,
    "seconds": 0.001,
    "repeats": 21,
    "attempt": 0,
}


def test_lines_read_back() -> None:
    found = parse(PassTime, STORED)
    assert json.loads(json.dumps(found.to_json())) == STORED
    assert list(found.to_json()) == list(STORED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "16"}, "'shape': '16' is no shape of a pass"),
        ({"shape": "many target"}, "'shape': invalid literal for int() with base 10: 'many'"),
        ({"shape": 16}, "'shape' is 16, not a text"),
        ({"seconds": 0.0}, "'seconds' is 0.0, not above 0"),
        ({"seconds": "1"}, "'seconds' is '1', not a finite number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as caught:
        parse(PassTime, STORED | change)
    assert str(caught.value) == message
