from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from synthetic import row

from cllm_bench.results.rows import Row, row_key
from cllm_bench.results.schema import parse

# Two lines as versions before 0.1.0 wrote them: one settled its first token in the prefill, as all
# did then, and one failed.
EARLY: dict[str, Any] = {
    "key": "0e1d4e0c7d5feb322f414b5a",
    "task": "spider",
    "sample": "test-00000",
    "method": "cllm",
    "checkpoint": "cllm",
    "repeat": 0,
    "order": 0,
    "attempt": 0,
    "prompt_tokens": 107,
    "token_ids": [376, 679, 365, 1],
    "accept_lengths": [1, 2],
    "drafted": [15, 14],
    "prefill_seconds": 0.009095997000258649,
    "decode_seconds": 0.013543046001359471,
    "finish": "stop",
    "error": None,
    "reply": " SELECT month FROM purchase",
    "score": 1.0,
    "verdict": "exact",
    "first_difference": None,
    "repetitive": False,
    "counters": {"stationary_per_block": 0.0},
    "peak_memory_bytes": None,
}
EARLY_FAILURE = EARLY | {
    "token_ids": [],
    "accept_lengths": [],
    "drafted": [],
    "prefill_seconds": None,
    "decode_seconds": None,
    "finish": "failed",
    "error": "OutOfMemoryError: no memory",
    "score": None,
    "verdict": None,
}


def test_counts_leave_the_first_step_to_the_prefill() -> None:
    assert row("ar", "q", tokens=3).decoded_tokens == 2
    assert row("ar", "q", tokens=3).passes == 2
    assert row("ar", "q", tokens=3, prefill_tokens=3, accept_lengths=()).decoded_tokens == 0
    assert row("ar", "q", tokens=0, prefill_tokens=0, accept_lengths=()).decoded_tokens == 0


def test_rows_of_earlier_versions() -> None:
    found = parse(Row, EARLY)
    assert (found.prefill_tokens, found.decoded_tokens) == (1, 3)
    assert (found.pass_shapes, found.foreign_load, found.slowed) == ({}, None, ())
    assert found.device_seconds is found.sm_clock_mhz is found.throttled is None
    assert found.token_ids == (376, 679, 365, 1)
    assert parse(Row, EARLY_FAILURE).prefill_tokens == 0


def test_rows_read_back_as_they_were_written() -> None:
    whole = row("jacobi", "q", 0.1, pass_shapes={"4 target": 2}, foreign_load=0.5, slowed=("x",))
    whole = replace(whole, device_seconds=1.4, sm_clock_mhz=1980, throttled={"power cap": 0.2})
    assert parse(Row, json.loads(json.dumps(whole.to_json()))) == whole
    assert list(whole.to_json()) == list(Row.__dataclass_fields__)


def test_whole_numbers_are_numbers() -> None:
    found = parse(Row, EARLY | {"score": 1, "counters": {"a": 3}})
    assert (found.score, found.counters) == (1.0, {"a": 3.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finish": "tired"}, "'finish' is 'tired', not one of stop, length or failed"),
        ({"verdict": "equal"}, "'verdict' is 'equal', not one of exact, tie or mismatch"),
        ({"repeat": True}, "'repeat' is True, not an integer"),
        ({"repeat": 1.0}, "'repeat' is 1.0, not an integer"),
        ({"score": "1"}, "'score' is '1', not a finite number"),
        ({"score": False}, "'score' is False, not a finite number"),
        ({"decode_seconds": float("inf")}, "'decode_seconds' is inf, not a finite number"),
        ({"token_ids": [1, 2.5]}, "'token_ids[1]' is 2.5, not an integer"),
        ({"token_ids": "12"}, "'token_ids' is '12', not a list"),
        ({"counters": {"a": None}}, "'counters.a' is None, not a finite number"),
        ({"counters": [1]}, "'counters' is [1], not an object"),
        ({"repetitive": 0}, "'repetitive' is 0, not true or false"),
        ({"reply": 3}, "'reply' is 3, not a text"),
        ({"slowed": [3]}, "'slowed[0]' is 3, not a text"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        parse(Row, EARLY | change)
    assert str(caught.value) == message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError, match="not a text") as caught:
        parse(Row, EARLY | {"reply": ["x" * 1000]})
    assert len(str(caught.value)) < 100


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"^no 'verdict'$"):
        parse(Row, {name: value for name, value in EARLY.items() if name != "verdict"})
    with pytest.raises(ValueError, match=r"^not a JSON object$"):
        parse(Row, [])


def test_row_key_is_stable_short_and_ignores_the_order_of_parts() -> None:
    assert row_key(a=1, b=[2]) == row_key(b=[2], a=1)
    assert row_key(a=1) != row_key(a="1")
    assert row_key(a=1) == "015abd7f5cc57a2dd94b7590"  # a resume years later must find its rows
