"""Compares two stored runs, task by task and method by method, over what both were asked.

A question counts where both runs have it with the same prompt, token by token. Ratios and
differences are those of the tables: geometric means of ratios paired by sample, paired differences
of scores, bootstrap over questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cllm_bench.core.sample_ids import conversation, question_of
from cllm_bench.report.comparison.conditions import (
    Condition,
    differing_conditions,
    differing_machines,
    stored_task,
)
from cllm_bench.report.comparison.outlines import Outline, OutlinedRun
from cllm_bench.report.judged import chosen_judge, scores_of
from cllm_bench.report.perplexity import perplexity_interval
from cllm_bench.report.samples import (
    decode_pace,
    end_to_end_pace,
    medians,
    paired_ratio,
    question_scores,
)
from cllm_bench.report.statistics import Interval, geometric_mean, paired_difference
from cllm_bench.results.judgements import JudgeId, ratings
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.schema import to_json

Word = Literal["faster", "slower", "same", "cannot tell"]
Holds = Literal["holds", "does not hold", "cannot tell"]
Samples = Mapping[str, Sequence[Outline]]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as fast the second run is as the first.

    Attributes:
        value: Geometric mean of the ratios by sample; null where there is none.
        interval: Its 95% bootstrap interval over questions.
        samples: Samples that it is over.
        margin: Relative difference that the noise floors of the runs allow for; null where one of
            the two was not measured.
        word: `same` where the interval lies within the margin, `faster` or `slower` where it lies
            beyond it, else `cannot tell`.
        reason: Why it cannot be told, or nothing.
    """

    value: float | None = None
    interval: Interval | None = None
    samples: int = 0
    margin: float | None = None
    word: Word = "cannot tell"
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreDifference:
    """Score of the second run minus that of the first, paired by question.

    Attributes:
        a: Mean score of the first run over the questions.
        b: The same of the second.
        difference: Their difference; null where there is none.
        interval: Its 95% interval.
        questions: Questions that it is over; 0 for a perplexity.
        best: The best possible score; 0 if lower is better.
        identical: Whether all these replies are equal, token by token, and so are their scores:
            then nothing is left to chance, and there is no interval.
        reason: Why there is no difference, or nothing.
    """

    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    questions: int = 0
    best: float = 1.0
    identical: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One method on one task, in both runs.

    Attributes:
        task: Label of the task.
        method: Label of the method.
        samples: Samples that both runs have with the same prompt.
        other_prompts: Samples that both have with different prompts, which do not count.
        identical_replies: Samples, of those that count, whose replies are equal in all repeats.
        failed_a: Samples, of those that count, that failed in the first run.
        failed_b: The same of the second.
        speed: Decoding, by seconds per token; refused across machines.
        end_to_end: The same with the prefill.
        speedup: Ratio of the speedups over each run's own baseline.
        speedup_a: Speedup of the first run over these samples.
        speedup_b: The same of the second.
        tokens_per_pass_a: Tokens kept by a pass in the first run, over these samples.
        tokens_per_pass_b: The same of the second.
        score: Difference of the score; null where the task has none.
    """

    task: str
    method: str
    samples: int
    other_prompts: int
    identical_replies: int
    failed_a: int
    failed_b: int
    speed: Ratio
    end_to_end: Ratio
    speedup: Ratio
    speedup_a: float | None
    speedup_b: float | None
    tokens_per_pass_a: float | None
    tokens_per_pass_b: float | None
    score: ScoreDifference | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a limit is broken by one method on one task.

    Attributes:
        task: Label of the task.
        method: Label of the method.
        outcome: Whether the condition holds: `holds`, `does not hold` or `cannot tell`.
        measured: Whether there are figures to answer by, though they may not tell.
        reason: Why it cannot be told, or nothing.
    """

    task: str
    method: str
    outcome: Holds
    measured: bool = True
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a limit is broken.

    Attributes:
        limit: The limit, as the user gave it.
        outcome: Of all pairs together: the worst of theirs.
        pairs: Each method on each task of which it could be asked.
    """

    limit: str
    outcome: Holds
    pairs: tuple[Answer, ...]

    @property
    def measured(self) -> bool:
        """Whether there are figures to answer by, for any pair."""
        return any(each.measured for each in self.pairs)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, compared.

    Attributes:
        a: Folder of the first run.
        b: Folder of the second.
        baseline: Label of the first run's baseline.
        conditions: In what they differ.
        machines: In what their machines differ; where there is anything, absolute times are not
            compared, and speedups are what counts.
        pairs: Each task and method that both have.
        only_a: Tasks and methods that only the first has, as `TASK METHOD`.
        only_b: The same of the second.
        notes: What a reader of the figures must know.
        checks: Whether the limits that were asked for are broken.
    """

    a: str
    b: str
    baseline: str
    conditions: tuple[Condition, ...]
    machines: tuple[Condition, ...]
    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    def headline(self, pair: Pair) -> Ratio:
        """Return the ratio whose word counts: that of speed, or across machines of the speedups."""
        return pair.speedup if self.machines else pair.speed

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of it."""
        return to_json(self)


def compare_runs(a: OutlinedRun, b: OutlinedRun, judge: JudgeId | None = None) -> Comparison:
    """Compare two stored runs.

    Args:
        a: The first: what the second is held against.
        b: The second.
        judge: Whose verdicts are the scores of judged tasks; None takes the newest's.
    """
    ours, theirs = _cells(a), _cells(b)
    shared = [cell for cell in ours if cell in theirs]
    tasks = list(dict.fromkeys(task for task, _ in shared))
    methods = list(dict.fromkeys(method for _, method in shared))
    machines = differing_machines(a.manifest, b.manifest)
    refused = f"measured on another machine ({machines[0].name})" if machines else None
    hashed = a.stores_prompts and b.stores_prompts
    by_task = {
        task: _TaskPair(_Side(a, task, judge), _Side(b, task, judge), hashed, refused)
        for task in tasks
    }
    pairs = tuple(by_task[task].pair(method) for task, method in shared)
    return Comparison(
        a=str(a.folder),
        b=str(b.folder),
        baseline=a.manifest.baseline,
        conditions=differing_conditions(a.manifest, b.manifest, tasks, methods),
        machines=machines,
        pairs=pairs,
        only_a=tuple(" ".join(cell) for cell in ours if cell not in theirs),
        only_b=tuple(" ".join(cell) for cell in theirs if cell not in ours),
        notes=tuple(_notes(list(by_task.values()), pairs, a.manifest.baseline)),
    )


def _cells(run: OutlinedRun) -> list[tuple[str, str]]:
    """Return the tasks and methods of a run; the baseline's second row is no method of its own."""
    return [
        (task.task, cell.method)
        for task in run.manifest.tasks
        for cell in run.manifest.cells
        if not cell.again
    ]


class _Side:
    """One of the two runs, on one task."""

    def __init__(self, run: OutlinedRun, task: str, judge: JudgeId | None) -> None:
        self.run = run
        self.manifest = run.manifest
        self.task = run.manifest.task(task)
        self.judge = chosen_judge(run.judgements, task, judge) if self.task.judged else None
        self._ratings = ratings(run.judgements, self.judge) if self.judge else {}
        self.graded = self._is_graded()
        self.noise_floor = self._noise_floor()

    def samples(self, method: str) -> Samples:
        """Return the rows of a method by sample, with the judge's ratings where there is one."""
        found = self.run.rows.get((self.task.task, method), {})
        if not self.task.judged:
            return found
        scores = scores_of([row for rows in found.values() for row in rows], self._ratings)
        return {
            name: [dataclasses.replace(row, score=scores.get(row.key)) for row in rows]
            for name, rows in found.items()
        }

    def _is_graded(self) -> bool:
        """Tell whether replies of this task have scores."""
        if self.task.judged:
            return bool(self._ratings)
        methods = [cell.method for cell in self.manifest.cells]
        return any(
            row.score is not None
            for method in methods
            for rows in self.samples(method).values()
            for row in rows
        )

    def perplexity(self, method: str) -> Perplexity | None:
        """Return the perplexity of a method's checkpoint, for a task that has a text."""
        cell = self.manifest.cell(method)
        role = cell and cell.checkpoint
        stored = self.run.perplexities
        return next((p for p in stored if p.task == self.task.task and p.checkpoint == role), None)

    def _noise_floor(self) -> float | None:
        """Return how far from 1 two equal rows came out (A/A); None where it was not measured."""
        again = next((cell.method for cell in self.manifest.cells if cell.again), None)
        if again is None:
            return None
        paces = medians(self.samples(again), decode_pace)
        baseline = medians(self.samples(self.manifest.baseline), decode_pace)
        _, interval = paired_ratio(paces, baseline, seed=self.manifest.seed)
        return interval and max(abs(interval.low - 1), abs(interval.high - 1))


class _TaskPair:
    """A task that both runs have.

    Args:
        a: The first run.
        b: The second.
        hashed: Whether both store hashes of their prompts.
        refused: Why absolute times are not compared, or nothing.
    """

    def __init__(self, a: _Side, b: _Side, hashed: bool, refused: str | None) -> None:
        self.a, self.b = a, b
        self.hashed = hashed
        self._refused = refused
        self._seed = a.manifest.seed
        self._same_data = _equal(a, b, "data", "template")

    def pair(self, method: str) -> Pair:
        """Compare one method."""
        all_a, all_b = self.a.samples(method), self.b.samples(method)
        both = [name for name in all_a if name in all_b]
        common = [name for name in both if self._same_prompt(name, all_a[name], all_b[name])]
        ours, theirs = ({name: rows[name] for name in common} for rows in (all_a, all_b))
        why = None if common else _why_nothing(all_a, all_b)
        identical = {name for name in common if _replies(ours[name]) == _replies(theirs[name])}
        relative = self._relative(self.a, method, ours), self._relative(self.b, method, theirs)
        return Pair(
            task=self.a.task.task,
            method=method,
            samples=len(common),
            other_prompts=len(both) - len(common),
            identical_replies=len(identical),
            failed_a=_failed(ours),
            failed_b=_failed(theirs),
            speed=self._speed(ours, theirs, decode_pace, why),
            end_to_end=self._speed(ours, theirs, end_to_end_pace, why),
            speedup=self._speedup(method, *relative, why),
            speedup_a=geometric_mean([1 / pace for pace in relative[0].values()]),
            speedup_b=geometric_mean([1 / pace for pace in relative[1].values()]),
            tokens_per_pass_a=_tokens_per_pass(ours),
            tokens_per_pass_b=_tokens_per_pass(theirs),
            score=self._score(method, all_a, all_b, set(common), identical),
        )

    def _same_prompt(self, name: str, a: Sequence[Outline], b: Sequence[Outline]) -> bool:
        """Tell whether a sample has one prompt in both runs.

        Without hashes: whether source and template of the questions are equal, and the prompts of
        one length. A later turn holds replies, and nobody knows which.
        """
        if self.hashed:
            found = {row.prompt_hash for row in (*a, *b)}
            return len(found) == 1 and None not in found
        lengths = {row.prompt_tokens for row in (*a, *b)}
        return self._same_data and _opens(name) and len(lengths) == 1

    def _speed(
        self,
        ours: Samples,
        theirs: Samples,
        measure: Callable[[Outline], float | None],
        why: str | None,
    ) -> Ratio:
        floors = self.a.noise_floor, self.b.noise_floor
        margin = None if None in floors else max(floor for floor in floors if floor is not None)
        if self._refused or why:
            return Ratio(margin=margin, reason=self._refused or why)
        return self._ratio(medians(ours, measure), medians(theirs, measure), margin)

    def _speedup(
        self, method: str, ours: Mapping[str, float], theirs: Mapping[str, float], why: str | None
    ) -> Ratio:
        """Compare speedups, each of which has a noise floor of its own."""
        a, b = self.a.noise_floor, self.b.noise_floor
        margin = None if a is None or b is None else (1 + a) * (1 + b) - 1
        baselines = {side.manifest.baseline for side in (self.a, self.b)}
        if method in baselines:
            why = "the baseline has no speedup"
        elif len(baselines) > 1:
            why = f"the baselines differ ({' and '.join(sorted(baselines))})"
        return Ratio(margin=margin, reason=why) if why else self._ratio(ours, theirs, margin)

    def _ratio(
        self, ours: Mapping[str, float], theirs: Mapping[str, float], margin: float | None
    ) -> Ratio:
        value, interval = paired_ratio(theirs, ours, seed=self._seed)
        word, reason = decide(interval, margin)
        return Ratio(
            value=value,
            interval=interval,
            samples=sum(name in theirs for name in ours),
            margin=margin,
            word=word,
            reason=reason,
        )

    def _relative(self, side: _Side, method: str, samples: Samples) -> dict[str, float]:
        """Return by sample the pace of a method over that of its run's baseline."""
        baseline = side.manifest.baseline
        if method == baseline:
            return {}
        theirs = {name: rows for name, rows in side.samples(baseline).items() if name in samples}
        paces = medians(theirs, decode_pace)
        return {
            name: pace / paces[name]
            for name, pace in medians(samples, decode_pace).items()
            if name in paces
        }

    def _score(
        self, method: str, a: Samples, b: Samples, common: set[str], identical: set[str]
    ) -> ScoreDifference | None:
        """Compare scores, of questions whose opening prompts are equal, with all their turns."""
        best = self.a.task.best_score
        texts = self.a.perplexity(method), self.b.perplexity(method)
        if any(texts):
            return _text_difference(*texts, _equal(self.a, self.b, "text"), best, self._seed)
        if not self.a.graded and not self.b.graded:
            return None
        if reason := self._why_no_score():
            return ScoreDifference(best=best, reason=reason)
        names = dict.fromkeys([*a, *b])
        other = {question_of(name) for name in names if _opens(name) and name not in common}
        scores_a, scores_b = (
            question_scores([row for rows in samples.values() for row in rows], side.task.best_of)
            for samples, side in ((a, self.a), (b, self.b))
        )
        asked = [name for name in scores_a if name in scores_b and name not in other]
        ours, theirs = [scores_a[name] for name in asked], [scores_b[name] for name in asked]
        found = paired_difference(theirs, ours, seed=self._seed, best=best)
        if found is None:
            return ScoreDifference(best=best, reason="no common questions with a score")
        questions = set(asked)
        replies = {name for name in names if question_of(name) in questions}
        same = ours == theirs and replies <= identical
        return ScoreDifference(
            a=sum(ours) / len(ours),
            b=sum(theirs) / len(theirs),
            difference=found.mean,
            interval=None if same else found.interval,
            questions=len(asked),
            best=best,
            identical=same,
        )

    def _why_no_score(self) -> str | None:
        a, b = self.a, self.b
        if not a.graded or not b.graded:
            return f"only {'the first' if a.graded else 'the second'} run has scores"
        if a.judge != b.judge:
            return f"judged by {a.judge} and by {b.judge}"
        if (a.task.metric, a.task.best_score) != (b.task.metric, b.task.best_score):
            return f"graded by {a.task.metric} and by {b.task.metric}"
        return None


def decide(interval: Interval | None, margin: float | None) -> tuple[Word, str | None]:
    """Return the word for a ratio of speeds, and why nothing can be told, if so.

    Args:
        interval: Of the ratio; None with fewer than five questions.
        margin: Relative difference that two equal methods may show; None where nobody measured it.
            Then nothing is called the same, and an interval beside 1 is enough for a difference.
    """
    if interval is None:
        return "cannot tell", "fewer than 5 common questions were timed"
    high = 1 + (margin or 0.0)
    low = 1 / high
    if margin is not None and low <= interval.low and interval.high <= high:
        return "same", None
    if interval.low > high:
        return "faster", None
    if interval.high < low:
        return "slower", None
    if margin is None:
        return (
            "cannot tell",
            "the interval holds 1, and there is no noise floor to call it the same",
        )
    return "cannot tell", "the interval lies partly within the noise floor and partly beyond it"


def _equal(a: _Side, b: _Side, *keys: str) -> bool:
    """Tell whether the configurations of two runs agree in some keys of a task, and have them."""
    ours, theirs = (stored_task(side.manifest, side.task.task) for side in (a, b))
    return all(ours.get(key) is not None and ours[key] == theirs.get(key) for key in keys)


def _opens(sample: str) -> bool:
    """Tell whether a sample is a question or the first turn of a conversation."""
    return conversation(sample) == sample or sample.endswith("/turn-1")


def _why_nothing(a: Samples, b: Samples) -> str:
    if not a or not b:
        return f"the {'second' if a else 'first'} run has no rows of it"
    if any(name in b for name in a):
        return "no common questions: the prompts differ"
    return "no common questions"


def _replies(rows: Sequence[Outline]) -> set[int | None]:
    """Return the different replies to a sample; a failed one equals no other."""
    return {row.reply_hash if row.new_tokens else None for row in rows} or {None}


def _failed(samples: Samples) -> int:
    return sum(any(row.finish == "failed" for row in rows) for rows in samples.values())


def _tokens_per_pass(samples: Samples) -> float | None:
    kept = sum(row.decoded_tokens for rows in samples.values() for row in rows if row.new_tokens)
    passes = sum(row.passes for rows in samples.values() for row in rows if row.new_tokens)
    return kept / passes if passes else None


def _text_difference(
    a: Perplexity | None, b: Perplexity | None, same_text: bool, best: float, seed: int
) -> ScoreDifference:
    """Compare perplexities, over the same stretches of one text."""
    if a is None or b is None:
        which = "first" if b is None else "second"
        return ScoreDifference(best=best, reason=f"only the {which} run has a perplexity")
    windows = [(each.window, each.stride, each.remainder) for each in (a, b)]
    ours, theirs = a.token_perplexity, b.token_perplexity
    if not same_text or windows[0] != windows[1] or ours is None or theirs is None:
        return ScoreDifference(
            a=ours, b=theirs, best=best, reason="perplexities of different texts"
        )
    same = a.parts == b.parts
    return ScoreDifference(
        a=ours,
        b=theirs,
        difference=theirs - ours,
        interval=None if same else perplexity_interval([b, a], seed),
        best=best,
        identical=same,
    )


def _notes(tasks: Sequence[_TaskPair], pairs: Sequence[Pair], baseline: str) -> Iterator[str]:
    if tasks and not tasks[0].hashed:
        yield (
            "an earlier version stored no hashes of prompts: where source and template of the "
            "questions are equal, prompts of one length count as the same, and later turns of "
            "conversations do not count"
        )
    for each in tasks:
        missing = [
            name for name, side in (("A", each.a), ("B", each.b)) if side.noise_floor is None
        ]
        if missing:
            yield (
                f"{each.a.task.task}: no noise floor was measured in {' and '.join(missing)}, so "
                "nothing is called the same, and a difference may be noise"
            )
    left_out: dict[tuple[str, int], list[str]] = {}
    for pair in pairs:
        if pair.other_prompts:
            left_out.setdefault((pair.task, pair.other_prompts), []).append(pair.method)
    for (task, count), methods in left_out.items():
        yield (
            f"{task}: {count:,} replies of {', '.join(methods)} do not count: the prompts differ"
            + ("" if tasks[0].hashed else ", or may differ")
        )
    for pair in pairs:
        if pair.failed_a or pair.failed_b:
            yield (
                f"{pair.task} {pair.method}: {pair.failed_a:,} replies failed in A and "
                f"{pair.failed_b:,} in B"
            )
        if pair.method == baseline and pair.speed.word in ("faster", "slower"):
            yield (
                f"{pair.task}: the baseline itself is {pair.speed.word}; where nothing was done "
                "to it, the machine was in another state, and speedups tell more than speeds"
            )
