"""The rows of one method on one task, and each sample's medians over the repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from cllm_bench.core.sample_ids import conversation, question_of
from cllm_bench.report.statistics import (
    Interval,
    expected_best,
    geometric_interval,
    geometric_mean,
    median,
)
from cllm_bench.results.rows import Outcome, Row

OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class Measured(NamedTuple):
    """What one method did on one task; the mappings are by sample, the scores by question."""

    samples: dict[str, list[Row]]
    decode: dict[str, float]  # seconds per decoded token
    end_to_end: dict[str, float]  # seconds per token, prefill included
    prefill: dict[str, float]  # seconds
    scores: dict[str, float]

    @classmethod
    def of(cls, rows: Sequence[Row], graded: bool, best_of: int = 1) -> Measured:
        """Sort one method's rows by sample.

        Args:
            rows: Of the method and one task.
            graded: Whether replies of this task have scores.
            best_of: Draws whose expected best is the score of a question.
        """
        samples: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            samples[row.sample].append(row)
        return cls(
            samples=dict(samples),
            decode=medians(samples, decode_pace),
            end_to_end=medians(samples, end_to_end_pace),
            prefill=medians(samples, lambda row: row.prefill_seconds),
            scores=question_scores(rows, best_of) if graded else {},
        )

    @property
    def generated(self) -> list[Row]:
        """The rows that hold a reply, among them those whose grading failed."""
        return [row for rows in self.samples.values() for row in rows if row.token_ids]


def decode_pace(row: Outcome) -> float | None:
    """Return seconds per decoded token."""
    if not row.decoded_tokens or not row.decode_seconds:
        return None
    return row.decode_seconds / row.decoded_tokens


def end_to_end_pace(row: Outcome) -> float | None:
    """Return seconds per token, prefill included."""
    if not row.new_tokens or not row.prefill_seconds:
        return None
    if row.decode_seconds is None and row.decoded_tokens:
        return None
    return (row.prefill_seconds + (row.decode_seconds or 0.0)) / row.new_tokens


def paired_ratio(
    ours: Mapping[str, float], baseline: Mapping[str, float], *, seed: int
) -> tuple[float | None, Interval | None]:
    """Return how many times as fast ours is, over the samples that both have, and its interval.

    It is the geometric mean of the baseline's pace over ours, with a bootstrap over questions.

    Args:
        ours: Pace by sample, such as seconds per token.
        baseline: The same.
        seed: Decides the resamples.
    """
    shared = [name for name in ours if name in baseline]
    ratios = [baseline[name] / ours[name] for name in shared]
    clusters = [question_of(name) for name in shared]
    return geometric_mean(ratios), geometric_interval(ratios, clusters=clusters, seed=seed)


def medians(
    samples: Mapping[str, Sequence[OutcomeT]], measure: Callable[[OutcomeT], float | None]
) -> dict[str, float]:
    """Return each sample's median over its repeats, where it was measured at all."""
    middles = {
        name: median([value for row in rows if (value := measure(row)) is not None])
        for name, rows in samples.items()
    }
    return {name: middle for name, middle in middles.items() if middle is not None}


def question_scores(rows: Iterable[Outcome], best_of: int) -> dict[str, float]:
    """Return a score for each question: the expected best of so many draws, if they are there.

    A draw, which may be a conversation, has 0 if a turn failed, else the mean of those stored.
    """
    turns: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        if row.repeat == 0:
            turns[conversation(row.sample)].append(row)
    draws: dict[str, list[float]] = defaultdict(list)
    for name, group in turns.items():
        stored = [row.score for row in group if row.score is not None]
        if any(row.finish == "failed" for row in group):
            draws[question_of(name)].append(0.0)
        elif stored:
            draws[question_of(name)].append(sum(stored) / len(stored))
    return {
        name: expected_best(found, best_of)
        for name, found in draws.items()
        if len(found) >= best_of
    }
