"""From stored rows to one summary for each task and method. A value not measured is None, never 0.

Nothing is dropped: a failed sample scores 0 and is counted, a cut-off or repetitive reply is timed
and graded like any other, and one settled by the prefill, without a decode time, stays in every
figure but the speed of decoding (`samples_timed` says how many that is about).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.report.judged import scored
from cllm_bench.report.perplexity import TextScore, text_score
from cllm_bench.report.prediction import pass_seconds, predicted_paces
from cllm_bench.report.rounding import expected_ties
from cllm_bench.report.samples import Measured, decode_pace, paired_ratio
from cllm_bench.report.statistics import (
    Interval,
    geometric_mean,
    is_binary,
    mean_interval,
    median,
    paired_difference,
    relative_spread,
    wilson_interval,
)
from cllm_bench.results.judgements import JudgeId, Judgement
from cllm_bench.results.manifest import Manifest, MethodEntry, TaskEntry
from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.rounding import Rounding
from cllm_bench.results.rows import Row
from cllm_bench.results.summary import JudgeFigures, RoundingFigures, Summary, Verdicts

if TYPE_CHECKING:
    from cllm_bench.results.folder import ResultFolder

_WORST_FIRST = ("mismatch", "tie", "exact")


def summarise(
    manifest: Manifest,
    rows: Sequence[Row],
    perplexities: Sequence[Perplexity] = (),
    judgements: Sequence[Judgement] = (),
    judge: JudgeId | None = None,
    pass_times: Sequence[PassTime] = (),
    roundings: Sequence[Rounding] = (),
) -> list[Summary]:
    """Return one summary for each task and method of a run, in the manifest's order.

    Args:
        manifest: Of the run.
        rows: All that are stored.
        perplexities: The same.
        judgements: The same.
        judge: Whose verdicts are the scores of a task that has a judge; None takes the newest's.
        pass_times: How long passes take alone.
        roundings: How far rounding moves choices.
    """
    spreads = {(each.task, each.checkpoint): each for each in roundings}
    stored: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        stored[row.task, row.method].append(row)
    summaries = []
    for task in manifest.tasks:
        rows_of = {cell.method: stored[task.task, cell.method] for cell in manifest.cells}
        judging: Mapping[str, JudgeFigures] = {}
        if task.judged:
            rows_of, judging = scored(rows_of, judgements, task.task, judge)
        graded = any(row.score is not None for own in rows_of.values() for row in own)
        cells = {label: Measured.of(own, graded, task.best_of) for label, own in rows_of.items()}
        seconds = pass_seconds(pass_times, task.task)
        for cell in manifest.cells:
            found = replace(
                _summary(manifest, task, cell, cells),
                predicted_speedup=_predicted(manifest, cell, cells, seconds),
                judge=judging.get(cell.method),
            )
            found = _with_rounding(
                found, cells[cell.method], spreads.get((task.task, cell.checkpoint))
            )
            text = text_score(perplexities, manifest, task.task, cell)
            summaries.append(found if text is None else _with_text(found, text))
    return summaries


def summarise_folder(folder: ResultFolder, judge: JudgeId | None = None) -> list[Summary]:
    """Return the same of everything that a folder holds."""
    return summarise(
        folder.manifest,
        folder.rows,
        list(folder.perplexities.values()),
        folder.judgements,
        judge,
        folder.pass_times,
        list(folder.roundings.values()),
    )


def _with_text(summary: Summary, text: TextScore) -> Summary:
    """Return a summary whose score is the perplexity of a text."""
    found = replace(summary, score=text.score, score_ci=text.score_ci, perplexity=text.figures)
    if not text.compared:
        return found
    return replace(found, score_difference=text.difference, score_difference_ci=text.difference_ci)


def _predicted(
    manifest: Manifest,
    cell: MethodEntry,
    cells: Mapping[str, Measured],
    seconds: Mapping[str, float],
) -> float | None:
    """Return the speedup that the passes alone would give."""
    ours = predicted_paces(cells[cell.method].samples, seconds)
    baseline = cells.get(manifest.baseline)
    theirs = {} if baseline is None else predicted_paces(baseline.samples, seconds)
    ratios = [theirs[name] / pace for name, pace in ours.items() if name in theirs]
    return geometric_mean(ratios)


def _bandwidth(manifest: Manifest, cell: MethodEntry, measured: Measured) -> float | None:
    """Return the bytes that the passes had to read, a second, over what the roof allows.

    Weights and cached tokens of the verifying model; what else a method reads is not counted.
    """
    roof, weights, cache = manifest.roof, cell.weight_bytes, cell.cache_bytes_per_token
    if not roof or not weights or cache is None:
        return None
    moved = seconds = 0.0
    for row in measured.generated:
        if row.decode_seconds and row.passes:
            context = row.prompt_tokens + len(row.token_ids) / 2
            moved += row.passes * (weights + context * cache)
            seconds += row.decode_seconds
    return moved / seconds / roof.bandwidth if seconds else None


def _summary(
    manifest: Manifest, task: TaskEntry, cell: MethodEntry, cells: Mapping[str, Measured]
) -> Summary:
    label, seed = cell.method, manifest.seed
    ours = cells[label]
    target = None if label == manifest.baseline else cells.get(manifest.baseline)
    own = None if label == cell.baseline else cells.get(cell.baseline)
    speed = _speed(ours.decode, target and target.decode, seed)
    whole_speed = _speed(ours.end_to_end, target and target.end_to_end, seed)
    own_speed = (None, None) if own is None else _speed(ours.decode, own.decode, seed)
    score, score_ci = _quality(ours, task.best_score, seed)
    if cell.again and target is not None and len(ours.scores) < len(target.scores):
        score = score_ci = None  # of a part of the questions: the baseline has the whole
    difference, difference_ci = _difference(ours, target, task.best_score, seed)
    found = Summary(
        schema=SCHEMA,
        method=label,
        checkpoint=cell.checkpoint,
        task=task.task,
        source=task.source,
        samples=len(ours.samples),
        failed=sum(any(r.finish == "failed" for r in rows) for rows in ours.samples.values()),
        metric=task.metric,
        score=score,
        score_ci=score_ci,
        speedup=speed[0],
        speedup_ci=speed[1],
        exactness=cell.exactness,
        parameters=cell.parameters,
        extra_parameters=cell.extra_parameters,
        best_score=task.best_score,
        speedup_end_to_end=whole_speed[0],
        speedup_end_to_end_ci=whole_speed[1],
        speedup_ratio_of_totals=_ratio_of_totals(ours, target),
        speedup_vs_own_ar=own_speed[0],
        speedup_vs_own_ar_ci=own_speed[1],
        score_difference=difference,
        score_difference_ci=difference_ci,
        bandwidth_share=_bandwidth(manifest, cell, ours),
    )
    for add in (
        *(_with_work, _with_drafts, _with_exactness, _with_lengths),
        *(_with_noise, _with_machine),
    ):
        found = add(found, ours)
    gain, passes = found.speedup, found.tokens_per_pass
    return replace(found, efficiency=gain / passes if gain is not None and passes else None)


def _speed(
    ours: Mapping[str, float], baseline: Mapping[str, float] | None, seed: int
) -> tuple[float | None, Interval | None]:
    """Return the speedup over the prompts that both were timed on, and its interval."""
    if baseline is None:  # this is the baseline
        return (1.0, None) if ours else (None, None)
    return paired_ratio(ours, baseline, seed=seed)


def _ratio_of_totals(ours: Measured, baseline: Measured | None) -> float | None:
    if baseline is None:
        return 1.0 if ours.decode else None
    shared = [name for name in ours.decode if name in baseline.decode]
    rate, reference = _tokens_per_second(ours, shared), _tokens_per_second(baseline, shared)
    return rate / reference if rate and reference else None


def _tokens_per_second(cell: Measured, names: Iterable[str]) -> float | None:
    tokens = {name: median([r.decoded_tokens for r in cell.samples[name]]) or 0 for name in names}
    seconds = sum(count * cell.decode[name] for name, count in tokens.items())
    return sum(tokens.values()) / seconds if seconds else None


def _quality(cell: Measured, best: float, seed: int) -> tuple[float | None, Interval | None]:
    scores = list(cell.scores.values())
    if not scores:
        return None, None
    mean = sum(scores) / len(scores)
    if is_binary(scores, best):
        bounds = wilson_interval(sum(score == best for score in scores), len(scores))
        interval = bounds and Interval(bounds.low * best, bounds.high * best)
    else:
        interval = mean_interval(scores, seed=seed)
    return mean, interval


def _difference(
    ours: Measured, baseline: Measured | None, best: float, seed: int
) -> tuple[float | None, Interval | None]:
    shared = [] if baseline is None else [n for n in ours.scores if n in baseline.scores]
    theirs = [] if baseline is None else [baseline.scores[name] for name in shared]
    found = paired_difference([ours.scores[n] for n in shared], theirs, seed=seed, best=best)
    return (None, None) if found is None else found


def _with_work(summary: Summary, cell: Measured) -> Summary:
    """Add what the passes gave, over all repeats."""
    lengths = Counter(length for row in cell.generated for length in row.accept_lengths)
    passes = lengths.total()
    first = median(list(cell.prefill.values()))
    accepted = sum(length * count for length, count in lengths.items())
    kept = sum(row.decoded_tokens for row in cell.generated)
    return replace(
        summary,
        tokens_per_second=_tokens_per_second(cell, cell.decode),
        tokens_per_pass=kept / passes if passes else None,
        mean_accept_length=accepted / passes if passes else None,
        first_token_ms=None if first is None else 1000 * first,
        accept_length_histogram={str(key): lengths[key] for key in sorted(lengths)} or None,
    )


def _with_drafts(summary: Summary, cell: Measured) -> Summary:
    """Add guesses: how many a pass checked, what share was not kept, and the fate by position.

    `acceptance_by_position`: of the passes that guessed so far ahead, the share that accepted the
    guess at that position (and so all before it); it ends at the farthest one ever accepted.
    """
    drafted = accepted = passes = 0
    offered, taken = Counter[int](), Counter[int]()
    for row in cell.generated:
        for length, guesses in zip(row.accept_lengths, row.drafted, strict=True):
            passes += 1
            drafted += guesses
            accepted += min(length - 1, guesses)
            offered[guesses] += 1
            taken[min(length - 1, guesses)] += 1
    shares = [
        _at_least(taken, position) / _at_least(offered, position)
        for position in range(1, max((n for n in taken if n), default=0) + 1)
    ]
    return replace(
        summary,
        drafted_per_pass=drafted / passes if passes else None,
        wasted_drafts=1 - accepted / drafted if drafted else None,
        acceptance_by_position=tuple(shares) or None,
    )


def _at_least(counts: Counter[int], least: int) -> int:
    return sum(count for value, count in counts.items() if value >= least)


def _with_exactness(summary: Summary, cell: Measured) -> Summary:
    """Add samples by the worst verdict of their repeats; one without a reply is no match."""
    counts = dict.fromkeys(reversed(_WORST_FIRST), 0)
    failed = 0
    for rows in cell.samples.values():
        found = {row.verdict for row in rows}
        worst = next((verdict for verdict in _WORST_FIRST if verdict in found), None)
        if any(row.finish == "failed" and row.verdict is None for row in rows):
            failed += 1
        elif worst:
            counts[worst] += 1
    compared = sum(counts.values())
    peaks = [row.peak_memory_bytes for row in cell.generated if row.peak_memory_bytes is not None]
    return replace(
        summary,
        exact_match=counts["exact"] / (compared + failed) if compared else None,
        peak_memory_bytes=max(peaks, default=None),
        verdicts=Verdicts(**counts) if compared else None,
    )


def _with_rounding(summary: Summary, cell: Measured, spread: Rounding | None) -> Summary:
    """Add what makes a tie, and how many ties that explains."""
    if spread is None:
        return summary
    figures = RoundingFigures(
        tolerance=spread.tolerance,
        within=spread.within,
        positions=spread.positions,
        reason=spread.reason,
    )
    verdicts = summary.verdicts
    if verdicts is not None and summary.exactness == "exact":
        verdicts = replace(verdicts, expected_ties=expected_ties(cell.samples, spread.flips))
    return replace(summary, verdicts=verdicts, rounding=figures)


def _with_lengths(summary: Summary, cell: Measured) -> Summary:
    """Add how long prompts and replies are, and how the replies end."""
    firsts = [min(rows, key=lambda row: row.repeat) for rows in cell.samples.values()]
    count = len(firsts)
    new = [len(row.token_ids) for row in firsts if row.token_ids]
    return replace(
        summary,
        samples_timed=len(cell.decode),
        cut_off=sum(row.finish == "length" for row in firsts) / count if count else None,
        repetitive=sum(row.repetitive for row in firsts) / count if count else None,
        median_prompt_tokens=median([row.prompt_tokens for row in firsts]),
        median_new_tokens=median(new),
    )


def _with_noise(summary: Summary, cell: Measured) -> Summary:
    """Add the spread of repeats, and the mechanism figures and errors of the samples."""
    spreads, counters, errors = [], defaultdict(list), Counter[str]()
    for rows in cell.samples.values():
        paces = [pace for row in rows if (pace := decode_pace(row)) is not None]
        spread = relative_spread(paces)
        if spread is not None:
            spreads.append(spread)
        errors.update({row.error for row in rows if row.error})
        names = dict.fromkeys(name for row in rows for name in row.counters)
        for name in names:
            values = [row.counters[name] for row in rows if name in row.counters]
            counters[name].append(sum(values) / len(values))
    repeats = [len({row.repeat for row in rows}) for rows in cell.samples.values()]
    return replace(
        summary,
        repeats=max(repeats, default=0),
        spread=median(spreads),
        counters={name: sum(values) / len(values) for name, values in counters.items()},
        errors=dict(errors.most_common()),
    )


def _with_machine(summary: Summary, cell: Measured) -> Summary:
    """Add what the machine did meanwhile, and how far its two clocks are apart."""
    rows = [row for rows in cell.samples.values() for row in rows]
    loads = [row.foreign_load for row in rows if row.foreign_load is not None]
    slowed = Counter(reason for row in rows for reason in row.slowed)
    laps = [row.throttled for row in rows if row.throttled is not None]
    reasons = sorted({reason for lap in laps for reason in lap})
    shares = {each: sum(lap.get(each, 0.0) for lap in laps) / len(laps) for each in reasons}
    return replace(
        summary,
        foreign_load=sum(loads) / len(loads) if loads else None,
        slowed=dict(slowed.most_common()),
        throttled=shares if laps else None,
        sm_clock_mhz=median([row.sm_clock_mhz for row in rows if row.sm_clock_mhz is not None]),
        clock_difference=median([gap for row in rows if (gap := _clock_gap(row)) is not None]),
    )


def _clock_gap(row: Row) -> float | None:
    """Return how far a reply's seconds by the device are from the host's, as a share of these."""
    if row.device_seconds is None or not row.prefill_seconds or row.decode_seconds is None:
        return None
    return abs(row.device_seconds / (row.prefill_seconds + row.decode_seconds) - 1)
