"""One line of `samples.jsonl`: what one method did with one sample, once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cllm_bench.decoding.exactness import Verdict
from cllm_bench.errors import StopReason

Finish = StopReason | Literal["failed"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one method did with one sample, once. Field order is the order of the JSON keys.

    Attributes:
        key: The resume key: a hash of everything that decides the result.
        task: Name of the task.
        sample: Id of the sample, or of one turn of it.
        method: Label of the method, as tables show it.
        checkpoint: Role of the checkpoint whose output the method settles.
        repeat: 0 for the first measurement of this sample by this method.
        order: Position within its round.
        attempt: Which process wrote it: 0 for the first, 1 for the first resume, and so on.
        prompt_tokens: Length of the prompt.
        token_ids: The reply, up to and including the stop token, never past the limit.
        prefill_tokens: Those of them that the first step settled.
        accept_lengths: Tokens settled by each verifying pass as the method gave them, uncut.
        drafted: Guesses that each of these passes checked.
        prefill_seconds: Time to the end of the first step.
        decode_seconds: Time from there to the last token.
        finish: Why the reply ended.
        error: What went wrong, for a failed sample.
        reply: The text that was graded.
        score: Between 0 and the task's best score; stored once a sample, with repeat 0.
        verdict: Comparison of the reply with the baseline method's on the same checkpoint.
        first_difference: Index of the first token that differs from it.
        repetitive: The reply degenerated into a loop.
        counters: The method's mechanism figures.
        peak_memory_bytes: The most of the device's memory that the process had allocated while it
            decoded: the weights and caches of the run's other methods are in it.
        pass_shapes: Passes by shape, those of the prefill left out: see `pass_times.Shape`.
        foreign_load: Cores that other programs kept busy while its round was measured.
        slowed: Why the processor or GPU ran slower then than it could, if it did.
    """

    key: str
    task: str
    sample: str
    method: str
    checkpoint: str
    repeat: int
    order: int
    attempt: int
    prompt_tokens: int
    token_ids: tuple[int, ...]
    prefill_tokens: int
    accept_lengths: tuple[int, ...]
    drafted: tuple[int, ...]
    prefill_seconds: float | None
    decode_seconds: float | None
    finish: Finish
    error: str | None
    reply: str | None
    score: float | None
    verdict: Verdict | None
    first_difference: int | None
    repetitive: bool
    counters: Mapping[str, float]
    peak_memory_bytes: int | None
    pass_shapes: Mapping[str, int] = field(default_factory=dict)
    foreign_load: float | None = None
    slowed: tuple[str, ...] = ()

    @property
    def passes(self) -> int:
        """Verifying passes after the prefill."""
        return len(self.accept_lengths)

    @property
    def decoded_tokens(self) -> int:
        """Tokens that decoding gave: those of the first step belong to the prefill."""
        return len(self.token_ids) - self.prefill_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `parse_row` reads."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {
            **values,
            "counters": dict(self.counters),
            "pass_shapes": dict(self.pass_shapes),
        }


def row_key(**parts: Any) -> str:
    """Return a short stable hash of everything that decides a result; `parts` must be JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def parse_row(value: Any) -> Row:
    """Read one JSON object; unknown keys are ignored, as a later version may have written them.

    Raises:
        ValueError: A key is missing or its value is of the wrong kind; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    # Of earlier versions' rows: one token was settled by every prefill, and the rest is not known.
    earlier = {"prefill_tokens": 1 if value.get("token_ids") else 0}
    value = {**earlier, "pass_shapes": {}, "foreign_load": None, "slowed": []} | value
    parsed: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        if name not in value:
            raise ValueError(f"no '{name}'")
        try:
            parsed[name] = parse(value[name])
        except TypeError as error:
            raise ValueError(f"'{name}' is {value[name]!r:.60}, not {error}") from None
    return Row(**parsed)


_Parser = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("an integer")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError("a finite number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of integers")
    return tuple(map(_integer, value))


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError("an object of numbers")
    return {name: _number(number) for name, number in value.items()}


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise TypeError("an object of integers")
    return {name: _integer(number) for name, number in value.items()}


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of texts")
    return tuple(map(_text, value))


def _optional(parse: _Parser) -> _Parser:
    return lambda value: None if value is None else parse(value)


def _one_of(*allowed: str | None) -> _Parser:
    def parse(value: Any) -> Any:
        if value not in allowed:
            raise TypeError(f"one of {', '.join(map(str, allowed))}")
        return value

    return parse


_PARSERS: dict[str, _Parser] = {
    **dict.fromkeys(("key", "task", "sample", "method", "checkpoint"), _text),
    **dict.fromkeys(("repeat", "order", "attempt", "prompt_tokens", "prefill_tokens"), _integer),
    **dict.fromkeys(("token_ids", "accept_lengths", "drafted"), _integers),
    **dict.fromkeys(("prefill_seconds", "decode_seconds"), _optional(_number)),
    "finish": _one_of("stop", "length", "failed"),
    **dict.fromkeys(("error", "reply"), _optional(_text)),
    "score": _optional(_number),
    "verdict": _one_of("exact", "tie", "mismatch", None),
    "first_difference": _optional(_integer),
    "repetitive": _flag,
    "counters": _numbers,
    "peak_memory_bytes": _optional(_integer),
    "pass_shapes": _counts,
    "foreign_load": _optional(_number),
    "slowed": _texts,
}
