"""One line of `samples.jsonl`: what one method did with one sample, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from cllm_bench.decoding.exactness import Verdict
from cllm_bench.errors import StopReason

Finish = Literal[StopReason, "failed"]


class Outcome(Protocol):
    """What figures of speed and score need of a row: `Row` has it, and so have lighter copies."""

    @property
    def key(self) -> str:
        """Resume key."""

    @property
    def sample(self) -> str:
        """Id of the sample, or of one turn of it."""

    @property
    def repeat(self) -> int:
        """Which measurement of the sample it is, from 0."""

    @property
    def new_tokens(self) -> int:
        """Length of the reply, in tokens."""

    @property
    def decoded_tokens(self) -> int:
        """Tokens that decoding gave."""

    @property
    def prefill_seconds(self) -> float | None:
        """Seconds to the end of the first step."""

    @property
    def decode_seconds(self) -> float | None:
        """Seconds from there to the last token."""

    @property
    def finish(self) -> Finish:
        """Why the reply ended."""

    @property
    def score(self) -> float | None:
        """What the reply was graded."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one method did with one sample, once. Field order is the order of the JSON keys.

    Attributes:
        key: Resume key: a hash of everything that decides the result.
        task: Label of the task.
        sample: Id of the sample, or of one turn of it.
        method: Label of the method, as tables show it.
        checkpoint: Role of the checkpoint whose output the method settles.
        repeat: 0 for the first measurement of this sample by this method.
        order: Position within its round, from 0.
        attempt: Which process wrote it: 0 for the first, 1 for the first resume, and so on.
        prompt_tokens: Length of the prompt, in tokens.
        token_ids: The reply, up to and including the stop token, never past the limit.
        prefill_tokens: Tokens of the reply that the first step settled; where an earlier version
            does not say, one.
        accept_lengths: Tokens settled by each verifying pass as the method gave them, uncut.
        drafted: Guesses that each of these passes checked.
        prefill_seconds: Seconds to the end of the first step; null where there is no reply.
        decode_seconds: Seconds from there to the last token; null where there is no reply.
        finish: Why the reply ended: `stop`, `length` (the limit) or `failed`.
        error: What went wrong, for a failed sample.
        reply: The text that was graded.
        score: Between 0 and the task's best score; stored once a sample, with repeat 0.
        verdict: The reply compared with the baseline's on the same checkpoint: `exact`, `tie` (it
            differs after a numerical tie) or `mismatch`.
        first_difference: Index of the first token that differs from it.
        repetitive: Whether the reply degenerated into a loop.
        counters: Figures of the method's own mechanism, by name.
        peak_memory_bytes: The most of the device's memory that the process had allocated while it
            decoded, in bytes: weights and caches of the run's other methods are in it.
        pass_shapes: Number of passes by shape, those of the prefill left out; a shape reads
            `ROWS ROLE`, with a `t` after the rows of a tree.
        foreign_load: Cores that other programs kept busy while its round was measured, on average.
        slowed: Why the processor or GPU ran slower then than it could, if it did.
        device_seconds: Seconds from the prompt to the last token by the device's own clock, to
            check the sum of `prefill_seconds` and `decode_seconds` by; null on a CPU and in earlier
            versions.
        sm_clock_mhz: Clock of the GPU's multiprocessors at the end of the round, in MHz; null where
            NVML was not asked.
        throttled: Shares of the round during which the GPU was slowed, by reason, those of 0 left
            out; null where the driver's counters were not read.
        prompt_hash: Hash of the prompt's token ids: rows of two runs answer the same prompt where
            it is equal; null for a turn that was not asked, and in earlier versions.
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
    device_seconds: float | None = None
    sm_clock_mhz: int | None = None
    throttled: Mapping[str, float] | None = None
    prompt_hash: str | None = None

    @property
    def new_tokens(self) -> int:
        """Length of the reply, in tokens."""
        return len(self.token_ids)

    @property
    def passes(self) -> int:
        """Verifying passes after the prefill."""
        return len(self.accept_lengths)

    @property
    def decoded_tokens(self) -> int:
        """Tokens that decoding gave: those of the first step belong to the prefill."""
        return len(self.token_ids) - self.prefill_tokens

    @staticmethod
    def from_earlier(value: dict[str, Any]) -> dict[str, Any]:
        """Return an object of this version: in early ones every prefill settled one token."""
        if "prefill_tokens" in value:
            return value
        return value | {"prefill_tokens": 1 if value.get("token_ids") else 0}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {
            **values,
            "counters": dict(self.counters),
            "pass_shapes": dict(self.pass_shapes),
            "throttled": None if self.throttled is None else dict(self.throttled),
        }


def hash_prompt(prompt_ids: Sequence[int]) -> str:
    """Return a short hash of a prompt's token ids."""
    return hashlib.sha256(json.dumps(list(prompt_ids)).encode()).hexdigest()[:16]


def row_key(**parts: Any) -> str:
    """Return a short stable hash of everything that decides a result; `parts` must be JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
