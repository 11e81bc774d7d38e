"""The columns of the tables: what each shows, and how readily a narrow terminal does without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cllm_bench.core.printable import clipped
from cllm_bench.report import numbers as formats
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.summary import Bounds, Summary

Run = tuple[Manifest, Sequence[Summary]]

POSITIONS = 6  # whose acceptance is shown
LONGEST_LABEL = 120  # characters of a method's label or a model's name that are shown
HISTOGRAM_LENGTHS = 4  # shown one by one; the longer ones together


class Line(NamedTuple):
    """One line of a table: a method on a task in a run."""

    run: str
    run_kind: str  # what `run` is: the run's number, or its model
    manifest: Manifest
    summary: Summary


def _always(_: Sequence[Line]) -> bool:
    return True


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        text: What it says about a line.
        rank: A narrow terminal leaves out the highest first; 0 always stays.
        left: Whether it is text rather than figures.
        wanted: Whether a table of these lines needs it.
        brief: What it says where the whole does not fit, if it can say less.
    """

    title: str
    text: Callable[[Line], str]
    rank: int = 0
    left: bool = False
    wanted: Callable[[Sequence[Line]], bool] = _always
    brief: Callable[[Line], str] | None = None


def method(line: Line) -> str:
    """Return the method's label, marked if its replies may differ from the baseline's by design."""
    name, exactness = clipped(line.summary.method, LONGEST_LABEL), line.summary.exactness
    return name if exactness == "exact" else f"{name} ({exactness})"


def is_baseline(line: Line) -> bool:
    """Say whether the line is what all others of its run are compared with."""
    return line.summary.method == line.manifest.baseline


def _checkpoint(line: Line) -> str:
    role = line.summary.checkpoint
    found = line.manifest.quantised.get(role)
    return role if found is None else f"{role} ({found.kind})"


def _own_baseline(line: Line) -> str | None:
    cell = line.manifest.cell(line.summary.method)
    return None if cell is None else cell.baseline


def _score(*, interval: bool = True) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        s = line.summary
        if s.score is None and s.judge:
            return "not judged"
        return formats.score(s.score, s.score_ci, s.best_score, show=interval)

    return text


def _word_perplexity(line: Line) -> str:
    found = line.summary.perplexity
    return formats.significant(None if found is None else found.word, 4)


def _difference(line: Line) -> str:
    s = line.summary
    on_target = _own_baseline(line) == line.manifest.baseline
    if s.score_difference == 0 and s.exact_match == 1 and on_target:
        return "same"  # not a matter of chance: every reply is the baseline's, token by token
    return formats.difference(s.score_difference, s.score_difference_ci, s.best_score)


def _speedup(name: str, *, interval: bool = True) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        value: float | None = getattr(line.summary, name)
        bounds: Bounds | None = getattr(line.summary, f"{name}_ci")
        if is_baseline(line) and value is not None:
            return "1×"  # by definition, not by measurement
        return formats.ratio(value, bounds, show=interval)

    return text


def _memory(line: Line) -> str:
    s = line.summary
    extra = f" + {formats.count(s.extra_parameters)}" if s.extra_parameters else ""
    return f"{formats.memory(s.peak_memory_bytes)} / {formats.count(s.parameters)}{extra}"


def _bandwidth(line: Line) -> str:
    return formats.share(line.summary.bandwidth_share)


def _failed(line: Line) -> str:
    s = line.summary
    return f"{s.failed}/{s.samples}"


def _ties(line: Line) -> str:
    verdicts = line.summary.verdicts
    if verdicts is None:
        return formats.ABSENT
    known = verdicts.expected_ties
    return f"{verdicts.tie} / {formats.ABSENT if known is None else formats.expected(known)}"


def _mismatch(line: Line) -> str:
    verdicts = line.summary.verdicts
    return formats.ABSENT if verdicts is None else str(verdicts.mismatch)


def _any_verdict(name: str) -> Callable[[Sequence[Line]], bool]:
    return lambda lines: any(getattr(line.summary.verdicts, name, None) for line in lines)


def _any(name: str) -> Callable[[Sequence[Line]], bool]:
    return lambda lines: any(getattr(line.summary, name) for line in lines)


def _run_column(kind: str) -> Column:
    def wanted(lines: Sequence[Line]) -> bool:
        return len({line.run for line in lines}) > 1 and lines[0].run_kind == kind

    return Column(kind, lambda line: line.run, left=True, wanted=wanted)


def _other_checkpoints(lines: Sequence[Line]) -> bool:
    return any(_own_baseline(line) != line.manifest.baseline for line in lines)


_METHOD = Column("method", method, left=True)
_SCORE = Column("score", _score(), brief=_score(interval=False))
_SPEEDUP = Column("speedup", _speedup("speedup"))
_TOKENS_PER_PASS = Column(
    "tokens/pass", lambda line: formats.plain(line.summary.tokens_per_pass), rank=2
)
_PACE = Column("tok/s", lambda line: formats.significant(line.summary.tokens_per_second), rank=3)
_FAILED = Column("failed", _failed, wanted=_any("failed"))

MAIN = (
    _run_column("model"),
    _run_column("run"),
    _METHOD,
    Column("checkpoint", _checkpoint, left=True),
    _SCORE,
    Column("word perplexity", _word_perplexity, wanted=_any("perplexity")),
    Column("Δ score", _difference),
    _SPEEDUP,
    Column("vs own AR", _speedup("speedup_vs_own_ar"), wanted=_other_checkpoints),
    Column("end to end", _speedup("speedup_end_to_end", interval=False)),
    _PACE,
    _TOKENS_PER_PASS,
    Column("accept length", lambda line: formats.plain(line.summary.mean_accept_length)),
    Column("first token ms", lambda line: formats.significant(line.summary.first_token_ms)),
    Column("exact match", lambda line: formats.share(line.summary.exact_match)),
    Column("ties / expected", _ties, wanted=_any_verdict("has_ties")),
    Column("mismatch", _mismatch, wanted=_any_verdict("mismatch")),
    Column("cut-off", lambda line: formats.share(line.summary.cut_off)),
    Column(
        "repetitive",
        lambda line: formats.share(line.summary.repetitive),
        wanted=_any("repetitive"),
    ),
    _FAILED,
    Column("bandwidth", _bandwidth, wanted=_any("bandwidth_share")),
    Column("peak memory / params", _memory),
)

# What a terminal of 80 columns has room for; the rest is in the Markdown.
SCREEN = (
    *MAIN[:2],
    _METHOD,
    _SCORE,
    _SPEEDUP,
    _TOKENS_PER_PASS,
    _PACE,
    Column("exact", lambda line: formats.share(line.summary.exact_match), rank=1),
    _FAILED,
)


def mechanism_columns(lines: Sequence[Line]) -> tuple[Column, ...]:
    """Return the columns of the second table: how the passes of these methods went."""
    names = dict.fromkeys(name for line in lines for name in line.summary.counters)
    columns = (
        *MAIN[:2],
        _METHOD,
        Column("speedup", _speedup("speedup", interval=False)),
        Column("predicted", _predicted, wanted=_any("predicted_speedup")),
        Column("speedup ÷ tokens/pass", lambda line: formats.plain(line.summary.efficiency)),
        Column("drafted/pass", lambda line: formats.plain(line.summary.drafted_per_pass, 1)),
        Column("wasted", lambda line: formats.share(line.summary.wasted_drafts)),
        Column("accepted by position", _acceptance, left=True),
        *(_counter(name) for name in names),
        Column("passes by accept length", _histogram, left=True),
    )
    return tuple(column for column in columns if column.wanted(lines))


def _predicted(line: Line) -> str:
    value = line.summary.predicted_speedup
    return formats.ABSENT if value is None else f"{formats.fixed(value, 2)}×"


def _counter(name: str) -> Column:
    def text(line: Line) -> str:
        return formats.figure(line.summary.counters.get(name))

    return Column(name.replace("_", " "), text)


def _acceptance(line: Line) -> str:
    """Return per cent for the first positions, such as `93 88 80 …`."""
    shares = line.summary.acceptance_by_position or ()
    shown = " ".join(f"{100 * share:.0f}" for share in shares[:POSITIONS])
    return (shown + (" …" if len(shares) > POSITIONS else "")) or formats.ABSENT


def _histogram(line: Line) -> str:
    """Return shares such as `1: 40%, 2: 35%, 3+: 25%`."""
    counts = {int(k): v for k, v in (line.summary.accept_length_histogram or {}).items()}
    total, top = sum(counts.values()), max(counts, default=0)
    if not total:
        return formats.ABSENT
    shown = {str(k): v for k, v in sorted(counts.items()) if k <= HISTOGRAM_LENGTHS}
    if top > HISTOGRAM_LENGTHS:
        longer = sum(v for k, v in counts.items() if k > HISTOGRAM_LENGTHS)
        shown[f"{HISTOGRAM_LENGTHS + 1}+"] = longer
    return ", ".join(f"{k}: {100 * v / total:.0f}%" for k, v in shown.items())
