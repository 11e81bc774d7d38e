"""Contract tests for tasks, for their authors: one line in a file of tests.

    from cllm_bench.testing.methods import task_suite
    from mine import Mine

    test_contract = task_suite(Mine())

or on the command line: `cllm-bench check-task mine --plugin mine.py`. The task is asked for its
questions and grades its own answers; no model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cllm_bench.contracts import ChatTask, Sample, SampleSet, Source, Task, TextTask
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import build, parse_selection
from cllm_bench.data.overlap import turns_of
from cllm_bench.errors import UserError
from cllm_bench.testing.outcome import CheckResult, Failed, Skipped, raised

GRADED = 25  # questions whose answers are graded
# Replies that models do give, and graders stumble over.
ODD = ("", " ", "\n\n", "\x00\ufffd", "'; DROP TABLE x; --", "9" * 400, "a " * 2000, "[[", "{}")


@dataclass(frozen=True)
class TaskSubject:
    """The task under test.

    Attributes:
        name: Its registered name, or its class's.
        task: The settings.
        source: Where its questions come from.
    """

    name: str
    task: Any
    source: Source

    @cached_property
    def found(self) -> SampleSet:
        """The questions."""
        found: SampleSet = self.task.samples(self.source)
        return found

    @property
    def graded(self) -> Sequence[Sample]:
        """Questions from all parts of the data."""
        samples = self.found.samples
        return samples[:: max(1, len(samples) // GRADED)][:GRADED]


def check_declaration(subject: TaskSubject) -> str:
    """Look at the class, and at what it says of its score."""
    from cllm_bench.testing.declaration import check_dataclass

    task = subject.task
    check_dataclass(type(task))
    if not isinstance(task, Task):
        lacking = [
            name
            for name in ("metric", "best_score", "folders", "max_new_tokens", "stop")
            if not hasattr(task, name)
        ]
        raise Failed(f"no task: it lacks {', '.join(lacking) or 'samples or score'}")
    if not isinstance(task.metric, str) or not task.metric:
        raise Failed(f"metric = {task.metric!r} is no text")
    best = task.best_score
    if not isinstance(best, int | float) or not math.isfinite(best) or best < 0:
        raise Failed(f"best_score = {best!r} is no number of 0 or above")
    for name in ("folders", "stop"):
        texts = getattr(task, name)
        if not isinstance(texts, tuple) or not all(isinstance(t, str) and t for t in texts):
            raise Failed(f"{name} = {texts!r} is not a tuple of texts; ('x',) is one of one text")
    if not isinstance(task.max_new_tokens, int) or task.max_new_tokens < 1:
        raise Failed(f"max_new_tokens = {task.max_new_tokens!r} is no number of 1 or above")
    return f"{task.metric}, at best {best:g}"


def check_settings(subject: TaskSubject) -> str:
    """Make the settings from text, as the command line does."""
    from cllm_bench.testing.declaration import check_texts

    return check_texts(subject.task, subject.name, "task")


def check_samples(subject: TaskSubject) -> str:
    """Look at the questions."""
    found = subject.found
    if not isinstance(found, SampleSet) or not isinstance(found.samples, tuple):
        raise Failed("samples() does not return a SampleSet with a tuple of samples")
    if not found.samples:
        raise Failed("there are no questions")
    seen: set[str] = set()
    for sample in found.samples:
        if not isinstance(sample.id, str) or not sample.id or sample.id in seen:
            raise Failed(f"the id {sample.id!r} is empty or stands twice: rows are told by it")
        seen.add(sample.id)
        if not isinstance(sample.prompt, str) or not sample.prompt:
            raise Failed(f"sample {sample.id} has no prompt")
    for name in ("label", "template", "fingerprint"):
        if not isinstance(getattr(found, name), str) or not getattr(found, name):
            raise Failed(f"{name} of the SampleSet is empty: tables and resumed runs need it")
    return f"{len(found.samples)} questions, {found.label}"


def check_same_again(subject: TaskSubject) -> str:
    """Load the questions a second time: a run that resumes must ask the same ones."""
    again: SampleSet = subject.task.samples(subject.source)
    if again.fingerprint != subject.found.fingerprint:
        raise Failed("the fingerprint is another at the second call; it must tell data apart only")
    if again.samples != subject.found.samples:
        raise Failed("the questions are others at the second call: seed what is random")
    return ""


def check_references(subject: TaskSubject) -> str:
    """Grade the data set's own answers, each of which must get the best score."""
    task = subject.task
    if isinstance(task, TextTask):
        raise Skipped("the score is a perplexity: there is no right answer")
    graded = 0
    for sample in subject.graded:
        if not sample.reference:
            continue
        score = _score(task, sample, (sample.reference,))
        if score is None:
            continue
        if score != task.best_score:
            raise Failed(f"the reference of {sample.id} scores {score:g}, not {task.best_score:g}")
        graded += 1
    if not graded:
        raise Skipped("no question has a reference that is graded")
    return f"{graded} references graded right"


def check_odd_replies(subject: TaskSubject) -> str:
    """Grade what no right answer looks like: a grader must neither raise nor leave its range."""
    task = subject.task
    for sample in subject.graded[:3]:
        for text in ODD:
            replies = (text,) * _turns(task, sample)
            try:
                _score(task, sample, replies)
            except Failed:
                raise
            except UserError:
                raise  # less isolation than it takes: nothing can be graded here
            except Exception as error:
                raise Failed(f"grading {text[:20]!r} for {sample.id} {raised(error)}") from error
    return f"{len(ODD)} replies graded"


def check_stops(subject: TaskSubject) -> str:
    """Look for a stop string in a reference, which would cut a right answer short."""
    task = subject.task
    for sample in subject.found.samples:
        for stop in task.stop:
            if stop in sample.reference.rstrip():
                raise Failed(f"the reference of {sample.id} holds the stop string {stop!r}")
    return f"{len(task.stop)} stop strings"


def check_turns(subject: TaskSubject) -> str:
    """Talk: every turn's conversation must end with the user's message."""
    task = subject.task
    if not isinstance(task, ChatTask):
        raise Skipped("questions have one turn")
    for sample in subject.graded:
        turns = task.turns(sample)
        if turns < 1:
            raise Failed(f"sample {sample.id} has {turns} turns")
        replies: list[str] = []
        for turn in range(turns):
            messages = task.messages(sample, replies)
            roles = [message["role"] for message in messages]
            if roles != ["user", "assistant"] * turn + ["user"]:
                raise Failed(f"turn {turn + 1} of {sample.id} has the roles {', '.join(roles)}")
            if replies and messages[-2]["content"].strip() != replies[-1]:
                raise Failed(f"turn {turn + 1} of {sample.id} does not hold the reply before it")
            replies.append(f"reply {turn}")
    return f"template {task.chat_template}"


def check_text(subject: TaskSubject) -> str:
    """Look at the text whose perplexity is measured."""
    task = subject.task
    if not isinstance(task, TextTask):
        raise Skipped("the score is no perplexity")
    text = task.text(subject.source)
    if not text.content.strip():
        raise Failed("the text is empty")
    if not 1 <= text.stride <= text.window or text.window < 2:
        raise Failed(f"a stride of {text.stride} in windows of {text.window} leaves tokens out")
    return f"{len(text.content.split()):,} words"


def check_splits(subject: TaskSubject) -> str:
    """Look for questions of the test among those of the training."""
    source = replace(subject.source, split="train")
    try:
        train: SampleSet = subject.task.samples(source)
    except UserError as error:
        raise Skipped(f"no training questions: {error}") from None
    if train.fingerprint == subject.found.fingerprint:
        raise Skipped("samples() does not look at the split: there is nothing to train on")
    known = {text for sample in train.samples for text in _asked(subject.task, sample)}
    # Of a conversation every turn: one such as "Make it shorter." may follow many questions.
    both = [
        sample.id
        for sample in subject.found.samples
        if known.issuperset(_asked(subject.task, sample))
    ]
    if both:
        raise Failed(f"{len(both)} questions of the test are in training too, such as {both[0]}")
    return f"{len(train.samples)} training questions, none of them in the test"


def _asked(task: Task, sample: Sample) -> list[str]:
    """Return each turn; or the whole prompt, for a question may be asked of several databases."""
    return turns_of(task, sample) if isinstance(task, ChatTask) else [sample.prompt]


# Every check, with those whose failure makes it pointless.
TASK_CHECKS: Mapping[str, tuple[Callable[[TaskSubject], str], tuple[str, ...]]] = {
    "declaration": (check_declaration, ()),
    "settings": (check_settings, ("declaration",)),
    "samples": (check_samples, ("declaration",)),
    "same_again": (check_same_again, ("samples",)),
    "references": (check_references, ("samples",)),
    "odd_replies": (check_odd_replies, ("samples",)),
    "stops": (check_stops, ("samples",)),
    "turns": (check_turns, ("samples",)),
    "text": (check_text, ("samples",)),
    "splits": (check_splits, ("samples",)),
}


class TaskSuite:
    """The checks of one task, each made once, when it is asked for.

    Attributes:
        subject: The task.

    Raises:
        UserError: There is no such task or setting.
    """

    def __init__(
        self, task: str | type[Task] | Task, plugins: Sequence[str | Path], source: Source | None
    ) -> None:
        self._results: dict[str, CheckResult] = {}
        if isinstance(task, str):
            selection = parse_selection(task)
            registry = Registry([Path(plugin) for plugin in plugins])
            name = selection.name
            made: Any = build(registry.tasks.get(name), "task", selection)
        else:
            made = task() if isinstance(task, type) else task
            name = type(made).__name__
        self.subject = TaskSubject(name, made, source or Source())

    def result(self, check: str) -> CheckResult:
        """Make a check, after those that it builds on."""
        if check not in self._results:
            self._results[check] = self._make(check)
        return self._results[check]

    def _make(self, check: str) -> CheckResult:
        code, before = TASK_CHECKS[check]
        for name in before:
            if self.result(name).status != "passed":
                return CheckResult(check, "skipped", f"not tried, for '{name}' did not pass")
        try:
            return CheckResult(check, "passed", code(self.subject))
        except Failed as failure:
            return CheckResult(check, "failed", str(failure))
        except Skipped as reason:
            return CheckResult(check, "skipped", str(reason))
        except UserError as error:
            return CheckResult(check, "skipped", str(error))
        except Exception as error:  # a task may raise anything: that is what is told here
            return CheckResult(check, "failed", raised(error))


def check_task(
    task: str | type[Task] | Task,
    *,
    plugins: Sequence[str | Path] = (),
    source: Source | None = None,
) -> list[CheckResult]:
    """Make all checks of a task.

    Args:
        task: `NAME[:key=value,…]`, the class, or an instance of it.
        plugins: Python files where the name may be found.
        source: Where its questions come from; default: the built-in sample.

    Raises:
        UserError: There is no such task or setting.
    """
    suite = TaskSuite(task, plugins, source)
    return [suite.result(check) for check in TASK_CHECKS]


def task_suite(
    task: str | type[Task] | Task,
    *,
    plugins: Sequence[str | Path] = (),
    source: Source | None = None,
) -> Callable[[str], None]:
    """Return a test for pytest, parametrised over the checks; arguments as for `check_task`."""
    import pytest

    suite = TaskSuite(task, plugins, source)

    @pytest.mark.parametrize("check", TASK_CHECKS)
    def test_task(check: str) -> None:
        result = suite.result(check)
        if result.status == "failed":
            pytest.fail(result.message, pytrace=False)
        if result.status == "skipped":
            pytest.skip(result.message)

    return test_task


def _turns(task: Any, sample: Sample) -> int:
    return task.turns(sample) if isinstance(task, ChatTask) else 1


def _score(task: Any, sample: Sample, replies: Sequence[str]) -> float | None:
    """Grade, and look at the grade.

    Raises:
        Failed: It is no number in the task's range.
    """
    score = task.score(sample, replies)
    if score is None:
        return None
    if not isinstance(score, int | float) or not 0 <= score <= task.best_score:
        raise Failed(f"a reply to {sample.id} scores {score!r}, not 0 to {task.best_score:g}")
    return float(score)
