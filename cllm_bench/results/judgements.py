"""The verdicts of judges on the replies of a run: stored lines and their ratings.

A line of `judgements.jsonl` is one verdict or one failure to give one. The rows that it names hold
replies about which the judge was asked the very same: it is asked once, and they share the score.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from cllm_bench.core.sample_ids import conversation
from cllm_bench.results.rows import Outcome
from cllm_bench.results.schema import to_json

OutcomeT = TypeVar("OutcomeT", bound=Outcome)

_HASH = re.compile(r"^(sha256|hub):(\w{12})\w+$")


class JudgeId(NamedTuple):
    """Who gave a verdict.

    Attributes:
        name: As tables show it; several judges may have the same.
        identity: What tells it from them; None in what earlier versions stored.
    """

    name: str
    identity: str | None

    def __str__(self) -> str:
        """Return the name with the identity behind it, of a hash the first digits."""
        identity = "unknown" if self.identity is None else self.identity
        return f"{self.name}@" + _HASH.sub(r"\1:\2", identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One line of `judgements.jsonl`.

    Attributes:
        judge: Name of the judge.
        identity: What tells the judge from others of its name: its address, or a hash of its
            weights; null in earlier versions.
        task: Label of the task.
        rows: Keys of the rows that it is about.
        prompt: Hash of what the judge was asked.
        score: The rating; null where there is none.
        text: What the judge wrote.
        error: Why there is no rating.
        requests: How often the judge was asked; 0 where an earlier verdict is taken over.
        prompt_tokens: Tokens that the judge read, if it counts them.
        completion_tokens: Tokens that the judge wrote, if it counts them.
        seconds: Seconds from the first request to the answer.
        created: Time of the answer in UTC, in ISO 8601.
    """

    judge: str
    identity: str | None = None
    task: str
    rows: tuple[str, ...]
    prompt: str
    score: float | None
    text: str | None
    error: str | None
    requests: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    created: str

    @property
    def judge_id(self) -> JudgeId:
        """Who gave it."""
        return JudgeId(self.judge, self.identity)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return to_json(self)


def conversations(rows: Iterable[OutcomeT]) -> list[list[OutcomeT]]:
    """Return what can be judged of one method: first repeats of conversations without a failure.

    A conversation with a failed turn scores 0, whatever a judge would say of its other turns.
    """
    found: dict[str, list[OutcomeT]] = defaultdict(list)
    for row in rows:
        if row.repeat == 0:
            found[conversation(row.sample)].append(row)
    return [
        sorted(turns, key=lambda row: (len(row.sample), row.sample))
        for turns in found.values()
        if all(row.finish != "failed" for row in turns)
    ]


def ratings(judgements: Iterable[Judgement], judge: JudgeId) -> dict[str, float]:
    """Return a judge's ratings by key of the row; the first that it gave counts."""
    found: dict[str, float] = {}
    for each in judgements:
        if each.judge_id == judge and each.score is not None:
            for key in each.rows:
                found.setdefault(key, each.score)
    return found


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of what was counted; None where nothing was."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
