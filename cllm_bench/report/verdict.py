"""The verdict in words: what a method did to speed, score and replies, one sentence for each task.

A sentence never says more than was measured: a difference in speed counts only where its interval
lies outside of what the baseline differs from itself by (A/A).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cllm_bench.report import numbers as formats
from cllm_bench.report.columns import Line, is_baseline, method
from cllm_bench.results.manifest import MethodEntry
from cllm_bench.results.summary import Summary, Verdicts


@dataclass(frozen=True)
class Verdict:
    """What a run says about one method on one task.

    Attributes:
        speed: The first part of the sentence: how fast the method is.
        rest: The other parts: score, exactness, and what is missing.
    """

    speed: str
    rest: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentence."""
        return "; ".join((self.speed, *self.rest)) + "."

    @property
    def markdown(self) -> str:
        """The sentence, with the speed in bold."""
        return "; ".join((f"**{self.speed}**", *self.rest)) + "."


def verdicts(lines: Sequence[Line]) -> list[Verdict]:
    """Return the verdicts on all methods that were asked for, task by task.

    Baselines that stand beside these for comparison get none, unless there is nothing else.

    Args:
        lines: Of one run or several.
    """
    found = []
    for task in dict.fromkeys(line.summary.task for line in lines):
        for run in dict.fromkeys(line.run for line in lines):
            own = [line for line in lines if line.run == run and line.summary.task == task]
            found += [_verdict(line, own, lines) for line in own if _is_asked_for(line)]
    return found


def noise_floor(lines: Sequence[Line]) -> float | None:
    """Return how far from 1 a speedup of two equal methods may come out; None if not measured.

    Args:
        lines: Of one run and one task.
    """
    for line in lines:
        cell, interval = _cell(line), line.summary.speedup_ci
        if cell is not None and cell.again and interval:
            return max(abs(bound - 1) for bound in interval)
    return None


def _cell(line: Line) -> MethodEntry | None:
    return line.manifest.cell(line.summary.method)


def _is_asked_for(line: Line) -> bool:
    """Say whether a method stands for itself: it is no baseline that others are compared with."""
    own, cells = _cell(line), line.manifest.cells
    if own is None:
        return not is_baseline(line)
    others = [cell for cell in cells if cell.method != own.method and not cell.again]
    if is_baseline(line):
        return not others
    return not own.again and not any(cell.baseline == own.method for cell in others)


def _verdict(line: Line, own: Sequence[Line], shown: Sequence[Line]) -> Verdict:
    s = line.summary
    several = len({each.run for each in shown}) > 1
    who = f"{line.run_kind} {line.run}: {method(line)}" if several else method(line)
    if not s.samples:
        return Verdict(f"{who} has not answered a question of {s.task} yet", ())
    if s.failed == s.samples:
        return Verdict(f"{who} failed on all {_questions(s.samples)} of {s.task}", ())
    if is_baseline(line):
        pace = formats.significant(s.tokens_per_second)
        speed = f"{who} decodes {pace} tokens per second on {s.task}"
        rest = [f"{_name(s)} {_score(s)}", "no other method was asked for"]
    else:
        speed = _speed(line, who, noise_floor(own))
        rest = [_quality(line, own), _exactness(line)]
    return Verdict(speed, (*rest, *_missing(line)))


def _speed(line: Line, who: str, floor: float | None) -> str:
    s, baseline = line.summary, line.manifest.baseline
    if s.speedup is None:
        return f"the speed of {who} on {s.task} was not measured"
    if s.speedup_ci is None:
        value = f"{formats.fixed(s.speedup, 2)}×"
        few = "from too few questions for an interval"
        return f"{who} decodes at {value} the speed of {baseline} on {s.task}, {few}"
    low, high = s.speedup_ci
    value, interval = formats.ratio_parts(s.speedup, s.speedup_ci)
    if low <= 1 <= high:
        return f"{who} cannot be told from {baseline} in speed on {s.task}: {value}{interval}"
    if floor is not None and min(abs(low - 1), abs(high - 1)) <= floor:
        return (
            f"{who} is within the noise of {baseline} on {s.task}: {value}{interval}, where "
            f"{baseline} differs from itself by up to {floor:.1%}"
        )
    whole = formats.ratio(s.speedup_end_to_end, s.speedup_end_to_end_ci, show=False)
    aside = "" if s.speedup_end_to_end is None else f" ({whole} with the prefill)"
    if low > 1:
        return f"{who} decodes {value} as fast as {baseline}{interval} on {s.task}{aside}"
    return f"{who} is slower than {baseline} on {s.task}: {value} its speed{interval}{aside}"


def _quality(line: Line, own: Sequence[Line]) -> str:
    s = line.summary
    if s.perplexity is not None:
        return _perplexity(line, own)
    if s.score is None:
        return "not judged yet" if s.judge else "not graded"
    found = s.score_difference
    if found is None:
        return f"score {_score(s)}"
    if found == 0 and s.exact_match == 1 and _is_on_target(line):
        return "same score"
    value, interval = formats.difference_parts(found, s.score_difference_ci, s.best_score)
    unit, scale = (" points", "") if s.best_score == 1 else ("", f" on a scale to {s.best_score:g}")
    return f"score {value}{unit}{interval}{scale}{_direction(s)}"


def _perplexity(line: Line, own: Sequence[Line]) -> str:
    s = line.summary
    target = next((each.summary for each in own if is_baseline(each)), None)
    if target is not None and target.checkpoint == s.checkpoint:
        return f"perplexity {_value(s)}, that of the same weights"
    if target is None or target.score is None or s.score_difference is None:
        return f"perplexity {_value(s)}"
    value, interval = formats.difference_parts(s.score_difference, s.score_difference_ci, 0)
    return f"perplexity {_value(s)} instead of {_value(target)}: {value}{interval}{_direction(s)}"


def _direction(s: Summary) -> str:
    """Say whether a difference of scores is one for the better or the worse, where that is sure."""
    if not s.score_difference_ci:
        return ""
    low, high = s.score_difference_ci
    if low <= 0 <= high:
        return ""
    return ", better" if (low > 0) == (s.best_score > 0) else ", worse"


def _exactness(line: Line) -> str:
    s, cell = line.summary, _cell(line)
    if cell is not None and cell.baseline == s.method:
        return "it is autoregressive decoding itself"
    if s.exactness == "distribution":
        return "its replies differ by design and have the same distribution"
    baseline = f"{line.manifest.baseline}'s"
    theirs = baseline if _is_on_target(line) else "its own autoregressive decoding"
    if s.verdicts is None:
        return "its replies were not compared"
    return _compared(s, s.verdicts, theirs)


def _compared(s: Summary, found: Verdicts, theirs: str) -> str:
    """Count the replies that equal the baseline's, and the others by why they do not."""
    total = found.exact + found.tie + found.mismatch
    lossy = "lossy by design: " if s.exactness == "lossy" else ""
    if found.exact == total:
        return f"{lossy}every reply equals {theirs}"
    counts = f"{lossy}{found.exact:,} of {total:,} replies equal {theirs}"
    if lossy:
        return counts
    if not found.mismatch:
        return f"{counts}, the others up to a numerical tie"
    ties = f", {found.tie:,} up to a numerical tie" if found.tie else ""
    broken = f"{found.mismatch:,} {'does' if found.mismatch == 1 else 'do'} not"
    return f"{counts}{ties}, and {broken}, although it claims to be exact"


def _missing(line: Line) -> Iterator[str]:
    s, manifest = line.summary, line.manifest
    planned = manifest.task(s.task).planned(s.method)
    if s.failed:
        yield f"{s.failed:,} of {_questions(s.samples)} failed"
    if s.samples < planned:
        yield f"unfinished, with {s.samples:,} of {_questions(planned)} answered"
    elif 0 < s.repeats < manifest.repeats:
        yield f"unfinished, with {s.repeats} of {manifest.repeats} repeats"


def _is_on_target(line: Line) -> bool:
    cell = _cell(line)
    return cell is not None and cell.baseline == line.manifest.baseline


def _name(s: Summary) -> str:
    return "score" if s.perplexity is None else "perplexity"


def _score(s: Summary) -> str:
    if s.score is None and s.judge:
        return "not judged yet"
    return formats.score(s.score, s.score_ci, s.best_score)


def _value(s: Summary) -> str:
    return formats.score(s.score, s.score_ci, s.best_score, show=False)


def _questions(number: int) -> str:
    return f"{number:,} question{'' if number == 1 else 's'}"
