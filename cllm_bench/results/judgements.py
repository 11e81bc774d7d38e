"""What judges said of the replies of a run: stored lines, and the scores that they give.

A line of `judgements.jsonl` is one verdict or one failure to give one. The rows that it names hold
replies about which the judge was asked the very same: it is asked once, and they share the score.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.results.rows import Row, conversation

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


def judges(judgements: Sequence[Judgement], task: str) -> list[JudgeId]:
    """Return who judged a task, the newest last."""
    found = [each.judge_id for each in judgements if each.task == task]
    return list(dict.fromkeys(reversed(found)))[::-1]


def ratings(judgements: Iterable[Judgement], judge: JudgeId) -> dict[str, float]:
    """Return a judge's ratings by key of the row; the first that it gave counts."""
    found: dict[str, float] = {}
    for each in judgements:
        if each.judge_id == judge and each.score is not None:
            for key in each.rows:
                found.setdefault(key, each.score)
    return found


def graded(rows: Sequence[Row], found: Mapping[str, float]) -> list[Row]:
    """Return rows with their ratings as scores, in conversations whose turns have all got one."""
    scores = {
        row.key: found[row.key]
        for turns in conversations(rows)
        if all(row.key in found for row in turns)
        for row in turns
    }
    return [replace(row, score=scores.get(row.key)) for row in rows]


def find_judge_id(text: str, judgements: Iterable[Judgement]) -> JudgeId:
    """Return the judge that a user names, as tables do or by its name alone.

    Raises:
        UserError: It gave none of the verdicts, or several judges have that name.
    """
    known = list(dict.fromkeys(each.judge_id for each in judgements))
    found = [each for each in known if str(each) == text]
    found = found or [each for each in known if each.name == text]
    if not found:
        tail = did_you_mean(text, {each.name for each in known} | set(map(str, known)))
        raise UserError(f"--judge {text}: no such judge's verdicts are stored; {tail}")
    if len(found) > 1:
        names = " or ".join(f"'{each}'" for each in found)
        raise UserError(f"--judge {text}: several judges have that name; give {names}")
    return found[0]


def scored(
    rows_of: Mapping[str, Sequence[Row]],
    judgements: Sequence[Judgement],
    task: str,
    judge: JudgeId | None,
) -> tuple[dict[str, list[Row]], dict[str, dict[str, Any]]]:
    """Score the rows of a task that has a judge.

    Args:
        rows_of: By method.
        judgements: All that are stored.
        task: Label of the task.
        judge: Whose verdicts count; None takes the newest judge's.

    Returns:
        By method the rows, and what its summary says of judging.
    """
    known = judges(judgements, task)
    if judge is None and known:
        judge = known[-1]
    chosen = judge if judge in known else None
    found = ratings(judgements, chosen) if chosen is not None else {}
    rows = {method: graded(own, found) for method, own in rows_of.items()}
    return rows, {method: _told(judgements, task, chosen, own) for method, own in rows_of.items()}


def _told(
    judgements: Sequence[Judgement], task: str, judge: JudgeId | None, rows: Sequence[Row]
) -> dict[str, Any]:
    asked = [row for turns in conversations(rows) for row in turns]
    own = [each for each in judgements if each.task == task and each.judge_id == judge]
    found = ratings(own, judge) if judge is not None else {}
    return {
        "name": None if judge is None else judge.name,
        "identity": None if judge is None else judge.identity,
        "replies": len(asked),
        "judged": sum(row.key in found for row in asked),
        "requests": sum(each.requests for each in own),
        "failures": sum(each.score is None for each in own),
        "prompt_tokens": total(each.prompt_tokens for each in own),
        "completion_tokens": total(each.completion_tokens for each in own),
        "others": [str(each) for each in judges(judgements, task) if each != judge],
    }


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of what was counted; None where nothing was."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
