"""Grades every reply of a run that has no rating yet and stores each answer at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple, cast

from cllm_bench.contracts import ChatTask, JudgedTask, JudgePrompt, Listen, Sample, Task
from cllm_bench.core.sample_ids import question_of
from cllm_bench.errors import UserError
from cllm_bench.judge.protocol import LOWEST, Judge, NoOpinion, Stopped, rating
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.judgements import JudgeId, Judgement, conversations, ratings
from cllm_bench.results.rows import Row, row_key
from cllm_bench.results.summary import Summary

GIVE_UP = 3  # failures in a row


class Material(NamedTuple):
    """A task of the run and its questions by id."""

    task: Task
    samples: Mapping[str, Sample]


class JudgedReply(NamedTuple):
    """One prompt for the judge, and the keys of the rows whose replies it grades."""

    task: str
    best: float
    prompt: JudgePrompt
    rows: tuple[str, ...]

    @property
    def key(self) -> str:
        """Hash of the prompt."""
        return row_key(system=self.prompt.system, user=self.prompt.user)


class Outcome(NamedTuple):
    """Result of a grading.

    Attributes:
        replies: Number of replies of the run that a judge can grade.
        judged: Number of these that have a rating now.
        fresh: Judgements made this time, failures included.
        stopped: Reason for an early end; None if every prompt was tried.
    """

    replies: int
    judged: int
    fresh: tuple[Judgement, ...]
    stopped: str | None


@dataclass
class Judging:
    """Grading of one result folder by one judge.

    Attributes:
        folder: Result folder, open for writing.
        judge: Model that grades.
        listen: Called with the progress.
        judge_id: Identifies the stored judgements of this judge.
    """

    folder: ResultFolder
    judge: Judge
    listen: Listen
    judge_id: JudgeId = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _fresh: list[Judgement] = field(default_factory=list)
    _failures: int = 0  # in a row
    _answered: bool = False
    _stopped: str | None = None

    def __post_init__(self) -> None:
        self.judge_id = JudgeId(self.judge.name, self.judge.identity)

    def run(self, material: Mapping[str, Material]) -> Outcome:
        """Grade the replies without a rating and store every answer; earlier answers are kept.

        Args:
            material: Tasks with their questions, by label of the task.

        Raises:
            UserError: The judge will never answer, or its answers cannot be stored.
        """
        questions = list(self._questions(material))
        known = {
            each.prompt: each
            for each in self.folder.judgements
            if each.judge_id == self.judge_id and each.score is not None
        }
        missing = self._missing(questions)
        for question in missing:
            if question.key in known:  # the same reply, in rows that were added later
                score, text = known[question.key].score, known[question.key].text
                self._store(replace(self._blank(question), score=score, text=text))
        self._ask_all([question for question in missing if question.key not in known])
        replies = sum(len(question.rows) for question in questions)
        left = sum(len(question.rows) for question in self._missing(questions))
        return Outcome(replies, replies - left, tuple(self._fresh), self._stopped)

    def _questions(self, material: Mapping[str, Material]) -> Iterator[JudgedReply]:
        """Yield the prompts of the run; equal replies of several methods share one."""
        for label, (task, samples) in material.items():
            asked: dict[JudgePrompt, list[str]] = {}
            own = [row for row in self.folder.rows if row.task == label]
            for method in dict.fromkeys(row.method for row in own):
                for rows in conversations(row for row in own if row.method == method):
                    for prompt, row in _prompts(task, samples, rows):
                        asked.setdefault(prompt, []).append(row.key)
            for prompt, keys in asked.items():
                yield JudgedReply(label, task.best_score, prompt, tuple(keys))

    def _missing(self, questions: Sequence[JudgedReply]) -> list[JudgedReply]:
        """Return the prompts that have rows without a rating, reduced to these rows."""
        found = ratings(self.folder.judgements, self.judge_id)
        left = [
            question._replace(rows=tuple(key for key in question.rows if key not in found))
            for question in questions
        ]
        return [question for question in left if question.rows]

    def _ask_all(self, questions: Sequence[JudgedReply]) -> None:
        if self.judge.parallel == 1:
            for done, question in enumerate(questions):
                self.listen(f"judge {self.judge.name}", done, len(questions))
                self._ask(question)
            return
        with ThreadPoolExecutor(self.judge.parallel) as pool:
            futures = [pool.submit(self._ask, question) for question in questions]
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    self.listen(f"judge {self.judge.name}", done, len(questions))
            except BaseException:  # requests under way finish and are stored
                self._halt("interrupted")
                for future in futures:
                    future.cancel()
                raise

    def _ask(self, question: JudgedReply) -> None:
        """Send one prompt and store the answer; do nothing once the grading has stopped."""
        if self._stopped is not None:
            return
        begun = time.monotonic()
        try:
            opinion = self.judge.ask(question.prompt)
        except Stopped:
            return
        except NoOpinion as error:
            failed = self._blank(question, begun)
            self._store(replace(failed, requests=error.requests, error=str(error)))
            self._count(error)
            return
        except UserError as error:
            self._halt(str(error))
            raise
        self._failures, self._answered = 0, True
        score = rating(opinion.text, question.best)
        wrong = f"the judge's answer contains no rating from {LOWEST:g} to {question.best:g}"
        self._store(
            replace(
                self._blank(question, begun),
                score=score,
                text=opinion.text,
                error=wrong if score is None else None,
                requests=opinion.requests,
                prompt_tokens=opinion.prompt_tokens,
                completion_tokens=opinion.completion_tokens,
            )
        )

    def _blank(self, question: JudgedReply, begun: float | None = None) -> Judgement:
        """Return a judgement without an answer."""
        return Judgement(
            judge=self.judge_id.name,
            identity=self.judge_id.identity,
            task=question.task,
            rows=question.rows,
            prompt=question.key,
            score=None,
            text=None,
            error=None,
            requests=0,
            prompt_tokens=None,
            completion_tokens=None,
            seconds=0.0 if begun is None else round(time.monotonic() - begun, 3),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _store(self, judgement: Judgement) -> None:
        with self._lock:
            self.folder.append_judgement(judgement)
            self._fresh.append(judgement)

    def _count(self, error: NoOpinion) -> None:
        """Stop the grading after a few failures in a row.

        Failures that lie in the prompt count only until the judge has answered once.
        """
        with self._lock:
            self._failures += not error.own or not self._answered
        if self._failures >= GIVE_UP:
            self._halt(str(error))

    def _halt(self, reason: str) -> None:
        if self._stopped is None:
            self._stopped = reason
        self.judge.stop()


def _prompts(
    task: Task, samples: Mapping[str, Sample], rows: Sequence[Row]
) -> Iterator[tuple[JudgePrompt, Row]]:
    """Yield the prompt for each turn of a conversation, unless turns are missing."""
    sample = samples[question_of(rows[0].sample)]
    turns = task.turns(sample) if isinstance(task, ChatTask) else 1
    if len(rows) < turns:
        return
    replies = [row.reply or "" for row in rows]
    for turn, row in enumerate(rows, 1):
        yield cast(JudgedTask, task).judge_prompt(sample, replies[:turn]), row


def judge_folder(
    folder: ResultFolder, judge: Judge, material: Mapping[str, Material], listen: Listen
) -> tuple[Outcome, list[Summary]]:
    """Grade the replies without a rating, then write the summary, also after a failure.

    Raises:
        UserError: The judge will never answer, or its answers cannot be stored.
    """
    from cllm_bench.report.write import write_summary

    judging = Judging(folder, judge, listen)
    try:
        outcome = judging.run(material)
    finally:
        known = any(each.judge_id == judging.judge_id for each in folder.judgements)
        summaries = write_summary(folder, judging.judge_id if known else None)
    return outcome, summaries
