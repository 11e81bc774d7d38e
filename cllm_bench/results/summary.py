"""What `summary.json` says of each task and method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cllm_bench.contracts import Exactness
from cllm_bench.core.files import reading
from cllm_bench.core.schema_version import UNNUMBERED, refuse_newer
from cllm_bench.errors import UserError
from cllm_bench.results.schema import parse, to_json

Bounds = tuple[float, float]

LEAST_EXPECTED = 0.05  # ties of a table's line, to be worth a word


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Samples by how their reply compares with the baseline's on the same checkpoint.

    Attributes:
        exact: Token-identical in every repeat.
        tie: Different after a numerical tie.
        mismatch: Different otherwise.
        expected_ties: How many would be `tie` by rounding alone; null where that is not known.
    """

    exact: int
    tie: int
    mismatch: int
    expected_ties: float | None = None

    @property
    def has_ties(self) -> bool:
        """Whether replies differ after a tie, or some are expected to."""
        return self.tie > 0 or (self.expected_ties or 0.0) >= LEAST_EXPECTED


@dataclass(frozen=True, kw_only=True)
class PerplexityFigures:
    """How the perplexity of a text came about.

    Attributes:
        window: Tokens that the model saw at once.
        stride: Tokens from the beginning of one window to that of the next.
        remainder: What was done with the last window, if it was not full: `drop` or `score`.
        windows: Number of windows.
        text_tokens: Tokens of the whole text.
        words: Words of the whole text.
        tokens: Tokens that were scored.
        nll: Negative log-likelihood of these, in nats.
        token: Perplexity by token, which is the score.
        word: Perplexity by word.
        seconds: Seconds that the measurement took.
    """

    window: int
    stride: int
    remainder: str
    windows: int
    text_tokens: int
    words: int
    tokens: int
    nll: float
    token: float | None
    word: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundingFigures:
    """How far rounding moves the choices of a checkpoint on a task: what makes a tie.

    Attributes:
        tolerance: What a token's logit may lack of the best one for its choice to be a numerical
            tie; null where it was not measured, and some roundings of the largest logit count.
        within: Share of the baseline's positions whose two likeliest tokens are that close.
        positions: Tokens of the baseline's replies that were compared.
        reason: Why nothing was measured, if so.
    """

    tolerance: float | None
    within: float | None
    positions: int
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeFigures:
    """Who graded the replies of a judged task, how much of it, and what it took.

    Attributes:
        name: The judge whose ratings are the score; null where nobody has judged.
        identity: What tells it from others of its name; null where an earlier version stored it.
        replies: Replies of the method that a judge can grade.
        judged: Those that have a rating.
        requests: Requests to the judge, of all methods together.
        failures: Its answers without a rating, of all methods together.
        prompt_tokens: Tokens that it read, of all methods together; null if it does not count.
        completion_tokens: Tokens that it wrote, of all methods together; null if it does not count.
        others: Other judges whose verdicts are stored, as `NAME@IDENTITY`.
    """

    name: str | None
    identity: str | None = None
    replies: int
    judged: int
    requests: int
    failures: int
    prompt_tokens: int | None
    completion_tokens: int | None
    others: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One object of `summary.json`: a method on a task. What was not measured is null, never 0.

    Attributes:
        schema: Schema version; 1 where none is stored.
        method: Label of the method, as tables show it.
        checkpoint: Role of the checkpoint whose output it settles.
        task: Label of the task.
        source: Where its questions come from.
        samples: Samples that the method has answered, each turn of a conversation and each draw
            counted.
        failed: Those of them that failed in any repeat.
        metric: What the score is.
        score: Mean score over the questions, from 0 to `best_score`; or the perplexity by token.
        score_ci: Its 95% interval: Wilson for scores of all or nothing, else bootstrap.
        speedup: Times faster than the baseline on the target checkpoint in decoding: geometric
            mean over prompts of the ratio of seconds per token.
        speedup_ci: Its 95% bootstrap interval over questions.
        drafted_per_pass: Guesses checked by a pass, on average.
        wasted_drafts: Share of the guesses that were not kept.
        acceptance_by_position: Of the passes that guessed so far ahead, the share that accepted the
            guess at position 1, 2, … and all before it.
        tokens_per_second: Decoded tokens over seconds of decoding, of the medians by sample.
        tokens_per_pass: Tokens kept for each pass of the verifying model, prefill left out.
        mean_accept_length: Tokens settled by a pass, those past the end of the reply included.
        first_token_ms: Median milliseconds to the end of the first step.
        accept_length_histogram: Number of passes by accept length.
        exactness: What the method claims of its replies: `exact`, `distribution` or `lossy`.
        exact_match: Share of samples that are token-identical to the baseline's on the same
            checkpoint, in every repeat.
        peak_memory_bytes: The most of the device's memory that the run held while the method
            decoded, in bytes.
        verdicts: Samples by the worst verdict of their repeats.
        parameters: Parameters of the checkpoint.
        extra_parameters: Parameters that the method needs beside these.
        best_score: The best possible score; 0 if lower is better.
        speedup_end_to_end: As `speedup`, with the prompt's prefill.
        speedup_end_to_end_ci: Its 95% bootstrap interval over questions.
        speedup_ratio_of_totals: Tokens a second over the baseline's, on the prompts of both.
        speedup_vs_own_ar: As `speedup`, against the baseline on the method's own checkpoint.
        speedup_vs_own_ar_ci: Its 95% bootstrap interval over questions.
        score_difference: Mean paired difference of the score from the baseline's.
        score_difference_ci: Its 95% interval over questions.
        bandwidth_share: Bytes of weights and cache that the passes read, a second, over what a
            large read moves; a large copy in runs whose manifest has no `read_bandwidth`.
        efficiency: `speedup` over `tokens_per_pass`.
        samples_timed: Samples with a decoding time.
        cut_off: Share of samples whose reply the length limit ended.
        repetitive: Share of samples whose reply degenerated into a loop.
        median_prompt_tokens: Median length of the prompts, in tokens.
        median_new_tokens: Median length of the replies, in tokens.
        foreign_load: Cores that other programs kept busy meanwhile, on average.
        slowed: Number of rows by why the machine ran slower than it could.
        throttled: Shares of the time during which the GPU was slowed, by reason; null where the
            driver's counters were not read.
        sm_clock_mhz: Median clock of the GPU's multiprocessors, in MHz; null where it was not read.
        clock_difference: Median over rows of how far the seconds of the device's own clock are from
            the host's, as a share of these; null on a CPU and in earlier versions.
        repeats: Repeats that are stored.
        spread: Median over samples of the interquartile range of seconds per token over their
            median, between repeats.
        counters: Figures of the method's own mechanism by name, averaged over samples.
        errors: Number of failed rows by error.
        predicted_speedup: The speedup if nothing but the passes took time, each as long as one of
            its shape takes alone.
        perplexity: How the perplexity came about, for a task that has a text.
        judge: Who graded, for a task that has a judge.
        rounding: What makes a numerical tie; null in earlier versions.
    """

    schema: int = UNNUMBERED
    method: str
    checkpoint: str
    task: str
    source: str
    samples: int = 0
    failed: int = 0
    metric: str
    score: float | None = None
    score_ci: Bounds | None = None
    speedup: float | None = None
    speedup_ci: Bounds | None = None
    drafted_per_pass: float | None = None
    wasted_drafts: float | None = None
    acceptance_by_position: tuple[float, ...] | None = None
    tokens_per_second: float | None = None
    tokens_per_pass: float | None = None
    mean_accept_length: float | None = None
    first_token_ms: float | None = None
    accept_length_histogram: Mapping[str, int] | None = None
    exactness: Exactness
    exact_match: float | None = None
    peak_memory_bytes: int | None = None
    verdicts: Verdicts | None = None
    parameters: int
    extra_parameters: int | None = None
    best_score: float
    speedup_end_to_end: float | None = None
    speedup_end_to_end_ci: Bounds | None = None
    speedup_ratio_of_totals: float | None = None
    speedup_vs_own_ar: float | None = None
    speedup_vs_own_ar_ci: Bounds | None = None
    score_difference: float | None = None
    score_difference_ci: Bounds | None = None
    bandwidth_share: float | None = None
    efficiency: float | None = None
    samples_timed: int = 0
    cut_off: float | None = None
    repetitive: float | None = None
    median_prompt_tokens: float | None = None
    median_new_tokens: float | None = None
    foreign_load: float | None = None
    slowed: Mapping[str, int] = field(default_factory=dict)
    throttled: Mapping[str, float] | None = None
    sm_clock_mhz: float | None = None
    clock_difference: float | None = None
    repeats: int = 0
    spread: float | None = None
    counters: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    predicted_speedup: float | None = None
    perplexity: PerplexityFigures | None = None
    judge: JudgeFigures | None = None
    rounding: RoundingFigures | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return to_json(self)


def read_summaries(file: Path) -> list[Summary]:
    """Read a `summary.json` of this version or an earlier one.

    Raises:
        UserError: It is not there, is damaged, or is of a later version.
    """
    try:
        with reading(file):
            found = json.loads(file.read_bytes())
        if not isinstance(found, list):
            raise ValueError("not a JSON list")
        for each in found:
            if isinstance(each, dict):
                refuse_newer(each, file)
        return [parse(Summary, each) for each in found]
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); make it again from the rows") from None
