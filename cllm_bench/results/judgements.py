"""The verdicts of judges on the replies of a run: stored lines and their ratings.

A line of `judgements.jsonl` is one verdict or one failure to give one. The rows that it names hold
replies about which the judge was asked the very same: it is asked once, and they share the score.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from cllm_bench.core.sample_ids import conversation
from cllm_bench.results.rows import Row

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


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of `judgements.jsonl`.

    Attributes:
        judge: Name of the judge.
        identity: What tells it from others of its name; None where an earlier version stored it.
        task: Label of the task.
        rows: Keys of the rows that it is about.
        prompt: Hash of what the judge was asked.
        score: The rating; None where there is none.
        text: What the judge wrote.
        error: Why there is no rating.
        requests: How often the judge was asked; 0 where an earlier verdict is taken over.
        prompt_tokens: Counted by the judge, if it counts.
        completion_tokens: The same for what it wrote.
        seconds: From the first request to the answer.
        created: When.
    """

    judge: str
    identity: str | None
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
        """Return the JSON object that `parse_judgement` reads."""
        return asdict(self)


_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("judge", "task", "prompt", "created"), (str,)),
    **dict.fromkeys(("identity", "text", "error"), (str, type(None))),
    "rows": (list,),
    "requests": (int,),
    **dict.fromkeys(("prompt_tokens", "completion_tokens"), (int, type(None))),
    "score": (int, float, type(None)),
    "seconds": (int, float),
}


def parse_judgement(value: Any) -> Judgement:
    """Read one JSON object; unknown keys are ignored, as a later version may have written them.

    Raises:
        ValueError: A key is missing or its value is of the wrong kind; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    value = {"identity": None} | value  # earlier versions stored none
    found = {}
    for name in (spec.name for spec in fields(Judgement)):
        if name not in value:
            raise ValueError(f"no '{name}'")
        if not _fits(value[name], _KINDS[name]):
            raise ValueError(f"'{name}' is {value[name]!r:.60}")
        found[name] = value[name]
    if not all(isinstance(key, str) for key in found["rows"]):
        raise ValueError(f"'rows' is {value['rows']!r:.60}")
    return Judgement(**found | {"rows": tuple(found["rows"])})


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, kinds)


def conversations(rows: Iterable[Row]) -> list[list[Row]]:
    """Return what can be judged of one method: first repeats of conversations without a failure.

    A conversation with a failed turn scores 0, whatever a judge would say of its other turns.
    """
    found: dict[str, list[Row]] = defaultdict(list)
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
