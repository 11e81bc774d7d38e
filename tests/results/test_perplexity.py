from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import manifest

from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.perplexity import Perplexity, Stretch
from cllm_bench.results.schema import parse

FOUND = Perplexity(
    key="k",
    task="wikitext2",
    checkpoint="target",
    attempt=0,
    window=100,
    stride=100,
    remainder="drop",
    windows=2,
    text_tokens=220,
    words=110,
    tokens=198,
    nll=400.0,
    parts=(Stretch(99, 150.0), Stretch(99, 250.0)),
    seconds=1.0,
)


def test_lines_read_back() -> None:
    stored = json.loads(json.dumps(FOUND.to_json()))
    assert parse(Perplexity, stored) == FOUND
    assert stored["parts"] == [[99, 150.0], [99, 250.0]]
    assert stored["token_perplexity"] == pytest.approx(math.exp(400 / 198))
    assert stored["word_perplexity"] == pytest.approx(math.exp(2 * 400 / 198))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": "x"}, "'nll' is 'x', not a finite number"),
        ({"windows": -1}, "'windows' is -1, not at least 0"),
        ({"words": 1.5}, "'words' is 1.5, not an integer"),
        ({"task": 3}, "'task' is 3, not a text"),
        ({"parts": [["many", 1.0]]}, "'parts[0][0]' is 'many', not an integer"),
        ({"parts": [[1]]}, "no 'parts[0][1]'"),
        ({"parts": 3}, "'parts' is 3, not a list"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    stored = json.loads(json.dumps(FOUND.to_json()))
    with pytest.raises(ValueError, match=r"'") as caught:
        parse(Perplexity, stored | change)
    assert str(caught.value) == message


def test_a_folder_that_is_closed_stores_nothing(tmp_path: Path) -> None:
    with ResultFolder.open(tmp_path / "run", manifest()) as folder:
        folder.append_perplexity(FOUND)
    assert ResultFolder.read(tmp_path / "run").perplexities == {"k": FOUND}
    with pytest.raises(RuntimeError, match="not open"):
        folder.append_perplexity(FOUND)
