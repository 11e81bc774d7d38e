"""Replies of all methods to a few questions, side by side: which differ, and from where on.

Which questions are shown is decided by one rule that the page states: those on which replies differ
come first, each group in the order in which it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cllm_bench.results.rows import Row

QUESTIONS = 3  # of a task
TEXTS = 4  # different replies to a question
CHARACTERS = 1200  # of a reply
BEFORE = 400  # of these, before the first difference
PASSES = 48  # accept lengths of a reply


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one method came to a reply.

    Attributes:
        method: Its label.
        verdict: Compared with the baseline on the same checkpoint; None where nothing was.
        first_difference: Index of the first token that differs from it.
        score: Of the reply; None where it has none.
        finish: Why the reply ended.
        tokens: Tokens of the reply.
        passes: Passes after the prefill.
        accept_lengths: Tokens that the first of these settled.
    """

    method: str
    verdict: str | None
    first_difference: int | None
    score: float | None
    finish: str
    tokens: int
    passes: int
    accept_lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A text, and the methods that gave it.

    Attributes:
        answers: One for each method.
        skipped: Characters before what is shown.
        shared: What is shown up to the first difference from the baseline's text.
        differing: What is shown from there on.
        cut: Characters after what is shown.
        error: What went wrong where there is no reply.
    """

    answers: tuple[Answer, ...]
    skipped: int
    shared: str
    differing: str
    cut: int
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and what was replied, the baseline's reply first.

    Attributes:
        sample: Its id.
        replies: Different replies.
        more: How many others there are.
    """

    sample: str
    replies: tuple[Reply, ...]
    more: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The questions that are shown, and out of how many.

    Attributes:
        questions: Those shown.
        asked: Questions of the task that the baseline and another method have answered.
        differing: Those of them on which some method's reply differs from the baseline's.
    """

    questions: tuple[Question, ...]
    asked: int
    differing: int


def select_replies(rows: Sequence[Row], baseline: str) -> Selection:
    """Choose questions of one task, and sort the replies of each by their text.

    Args:
        rows: Of one run and task.
        baseline: Label of the method that the others are compared with.
    """
    by_sample: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.repeat == 0:
            by_sample.setdefault(row.sample, {}).setdefault(row.method, row)
    compared = {n: own for n, own in by_sample.items() if baseline in own and len(own) > 1}
    differ = {name for name, own in compared.items() if _differ(own, baseline)}
    chosen = sorted(compared, key=lambda name: name not in differ)[:QUESTIONS]
    return Selection(
        questions=tuple(_question(name, compared[name], baseline) for name in chosen),
        asked=len(compared),
        differing=len(differ),
    )


def _differ(own: Mapping[str, Row], baseline: str) -> bool:
    ids = own[baseline].token_ids
    return any(row.token_ids != ids for row in own.values())


def _question(sample: str, own: Mapping[str, Row], baseline: str) -> Question:
    first = own[baseline]
    rows = [first, *(row for name, row in own.items() if name != baseline)]
    groups: dict[tuple[str | None, str | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.reply, row.error), []).append(row)
    replies = [_reply(group, first) for group in list(groups.values())[:TEXTS]]
    return Question(sample=sample, replies=tuple(replies), more=len(groups) - len(replies))


def _reply(group: Sequence[Row], baseline: Row) -> Reply:
    text, other = group[0].reply or "", baseline.reply or ""
    same = text == other
    shared = len(text) if same else _shared_length(text, other)
    start = 0 if same else max(0, shared - BEFORE)
    end = start + CHARACTERS
    return Reply(
        answers=tuple(map(_answer, group)),
        skipped=start,
        shared=text[start : min(shared, end)],
        differing=text[shared:end],
        cut=max(0, len(text) - end),
        error=group[0].error,
    )


def _shared_length(text: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(text, other, strict=False))
    shorter = min(len(text), len(other))
    return next((index for index, (ours, theirs) in pairs if ours != theirs), shorter)


def _answer(row: Row) -> Answer:
    return Answer(
        method=row.method,
        verdict=row.verdict,
        first_difference=row.first_difference,
        score=row.score,
        finish=row.finish,
        tokens=len(row.token_ids),
        passes=row.passes,
        accept_lengths=row.accept_lengths[:PASSES],
    )
