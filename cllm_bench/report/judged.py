"""Scores of a judged task, from the verdicts that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.results.judgements import JudgeId, Judgement, conversations, ratings, total
from cllm_bench.results.rows import Outcome, Row
from cllm_bench.results.summary import JudgeFigures


def judges(judgements: Sequence[Judgement], task: str) -> list[JudgeId]:
    """Return who judged a task, the newest last."""
    found = [each.judge_id for each in judgements if each.task == task]
    return list(dict.fromkeys(reversed(found)))[::-1]


def scores_of(rows: Sequence[Outcome], found: Mapping[str, float]) -> dict[str, float]:
    """Return by key of the row its rating, in conversations whose turns have all got one."""
    return {
        row.key: found[row.key]
        for turns in conversations(rows)
        if all(row.key in found for row in turns)
        for row in turns
    }


def graded(rows: Sequence[Row], found: Mapping[str, float]) -> list[Row]:
    """Return rows with their ratings as scores, in conversations whose turns have all got one."""
    scores = scores_of(rows, found)
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


def chosen_judge(
    judgements: Sequence[Judgement], task: str, judge: JudgeId | None
) -> JudgeId | None:
    """Return the judge whose verdicts count on a task: the one asked for, or the newest."""
    known = judges(judgements, task)
    if judge is None and known:
        return known[-1]
    return judge if judge in known else None


def scored(
    rows_of: Mapping[str, Sequence[Row]],
    judgements: Sequence[Judgement],
    task: str,
    judge: JudgeId | None,
) -> tuple[dict[str, list[Row]], dict[str, JudgeFigures]]:
    """Score the rows of a task that has a judge.

    Args:
        rows_of: By method.
        judgements: All that are stored.
        task: Label of the task.
        judge: Whose verdicts count; None takes the newest judge's.

    Returns:
        By method the rows, and what its summary says of judging.
    """
    chosen = chosen_judge(judgements, task, judge)
    found = ratings(judgements, chosen) if chosen is not None else {}
    rows = {method: graded(own, found) for method, own in rows_of.items()}
    return rows, {
        method: _figures(judgements, task, chosen, own) for method, own in rows_of.items()
    }


def _figures(
    judgements: Sequence[Judgement], task: str, judge: JudgeId | None, rows: Sequence[Row]
) -> JudgeFigures:
    asked = [row for turns in conversations(rows) for row in turns]
    own = [each for each in judgements if each.task == task and each.judge_id == judge]
    found = ratings(own, judge) if judge is not None else {}
    return JudgeFigures(
        name=None if judge is None else judge.name,
        identity=None if judge is None else judge.identity,
        replies=len(asked),
        judged=sum(row.key in found for row in asked),
        requests=sum(each.requests for each in own),
        failures=sum(each.score is None for each in own),
        prompt_tokens=total(each.prompt_tokens for each in own),
        completion_tokens=total(each.completion_tokens for each in own),
        others=tuple(str(each) for each in judges(judgements, task) if each != judge),
    )
