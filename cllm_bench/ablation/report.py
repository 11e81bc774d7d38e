"""The figures and the table of an ablation: a line for each variant, compared with the base."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cllm_bench.ablation.variants import BASE, Variant
from cllm_bench.contracts import SampleSet, Task
from cllm_bench.core.sample_ids import question_of
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.report import numbers as formats
from cllm_bench.report.columns import MAIN, Column, Line, Run, mechanism_columns
from cllm_bench.report.notes import conditions, notes, subtitle
from cllm_bench.report.statistics import Interval, bootstrap_interval, median
from cllm_bench.report.tables import Grid, markdown_table
from cllm_bench.results.manifest import AblationManifest, TaskEntry
from cllm_bench.results.rows import Row
from cllm_bench.results.schema import to_json
from cllm_bench.results.summary import Summary

LOG = "training_log.jsonl"  # that a recipe leaves in a checkpoint's folder
LEGEND = (
    "Every variant was trained once; all were then measured in one run in which every method "
    "answers every question in turn. **tokens/pass**: tokens kept per forward pass of the "
    "verifying model, as a ratio of totals. **vs base**: the same relative to the base on the same "
    "questions. An interval that excludes 1 separates the two with respect to the questions; the "
    "variation between training seeds is not included. Brackets are 95% intervals over questions, "
    "for these two figures by bootstrap with the same draws for a variant and the base. "
    "**speedup** and **Δ score**: relative to {baseline} on the target checkpoint; **vs own AR** "
    "and **exact match**: relative to the baseline on the variant's own checkpoint. **training**: "
    "optimiser steps, seconds (steps × the median seconds per step of the log, without evaluations "
    "and pauses) and the questions given to the recipe. –: not measured. `run/table.md` has more "
    "figures of the same run."
)
Totals = Mapping[str, tuple[int, int]]  # by question: tokens kept, passes


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """What a training took.

    Attributes:
        steps: Optimiser steps; null without a log.
        seconds: Steps times the log's median seconds a step; null without a log.
        questions: Questions given to the recipe.
    """

    steps: int | None
    seconds: float | None
    questions: int


class TrainedVariant(NamedTuple):
    """One variant, as trained."""

    variant: Variant
    spec: str  # label of the method that decodes with it
    collapsed: str | None  # how its training collapsed
    training: TrainingFigures


@dataclass(frozen=True, kw_only=True)
class VariantFigures:
    """One object of `ablation.json`: a variant on a task; a summary's keys stand among these.

    Attributes:
        variant: What differs from the base.
        changed: The settings that differ, by name.
        role: Role of the variant's checkpoint in the run.
        collapsed: How the training collapsed; null for one that did not.
        training: What the training took.
        summary: The run's figures; without them, a collapsed training has null for each key.
        tokens_per_pass: Tokens kept for each pass, the ratio of totals.
        tokens_per_pass_ci: Its 95% bootstrap interval over questions.
        tokens_per_pass_vs_base: The same over the base's, on the same questions.
        tokens_per_pass_vs_base_ci: Its 95% bootstrap interval over questions.
    """

    variant: str
    changed: Mapping[str, Any]
    role: str
    collapsed: str | None
    training: TrainingFigures
    summary: Summary
    tokens_per_pass: float | None
    tokens_per_pass_ci: Interval | None
    tokens_per_pass_vs_base: float | None
    tokens_per_pass_vs_base_ci: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        own = to_json(self)
        summary = own.pop("summary")
        if self.collapsed is not None:
            summary = dict.fromkeys(summary) | {"task": summary["task"], "counters": {}}
        names = ("variant", "changed", "role", "collapsed", "training")
        first = {name: own.pop(name) for name in names}
        found = {"schema": SCHEMA, **first, **summary, **own}
        return found | {"schema": SCHEMA}  # of a collapsed one, too, whose summary is all null


def training_figures(
    checkpoint: Path, material: Mapping[str, tuple[Task, SampleSet]]
) -> TrainingFigures:
    """Return steps and seconds by the log beside a checkpoint, None without one; and questions."""
    log: list[dict[str, Any]] = []
    if (checkpoint / LOG).is_file():
        lines = (checkpoint / LOG).read_text(encoding="utf-8").splitlines()
        log = [line for line in map(json.loads, lines) if "step" in line]
    timed = [(line["step"], line["time"]) for line in log if "time" in line]
    paces = [
        (then - now) / (later - step)
        for (step, now), (later, then) in pairwise(timed)
        if later > step
    ]
    pace, steps = median(paces), log[-1]["step"] if log else None
    return TrainingFigures(
        steps=steps,
        seconds=None if pace is None or steps is None else pace * steps,
        questions=sum(len(found.samples) for _, found in material.values()),
    )


def figures(
    entries: Sequence[TrainedVariant], run: Run, rows: Sequence[Row]
) -> list[VariantFigures]:
    """Return what is known of each variant on each task: of the run, and of the ablation alone."""
    manifest, summaries = run
    by_method = {(summary.task, summary.method): summary for summary in summaries}
    totals = _totals(rows)
    found = []
    for task in manifest.tasks:
        # A base that collapsed has no rows, and then nothing is compared with it.
        base = totals[task.task, entries[0].spec]
        for entry in entries:
            ours = totals[task.task, entry.spec]
            own, interval = ratio_of_totals(ours, None, manifest.seed)
            versus, paired = (
                (own and 1.0, None)
                if entry is entries[0]
                else ratio_of_totals(ours, base, manifest.seed)
            )
            found.append(
                VariantFigures(
                    variant=entry.variant.label,
                    changed=entry.variant.changed,
                    role=entry.variant.role,
                    collapsed=entry.collapsed,
                    training=entry.training,
                    summary=by_method.get((task.task, entry.spec)) or _unmeasured(task, entry),
                    tokens_per_pass=own,
                    tokens_per_pass_ci=interval,
                    tokens_per_pass_vs_base=versus,
                    tokens_per_pass_vs_base_ci=paired,
                )
            )
    return found


def _unmeasured(task: TaskEntry, entry: TrainedVariant) -> Summary:
    """Return the summary of a variant that was never run, as its training collapsed."""
    return Summary(
        schema=SCHEMA,
        method=entry.spec,
        checkpoint=entry.variant.role,
        task=task.task,
        source=task.source,
        metric=task.metric,
        exactness="exact",
        parameters=0,
        best_score=task.best_score,
    )


def _totals(rows: Sequence[Row]) -> Mapping[tuple[str, str], dict[str, tuple[int, int]]]:
    """Count tokens kept and passes of each question, by task and method, over all repeats."""
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in rows:
        if row.passes:
            kept, passes = found[row.task, row.method].get(row.sample, (0, 0))
            found[row.task, row.method][row.sample] = (
                kept + row.decoded_tokens,
                passes + row.passes,
            )
    return found


def ratio_of_totals(
    ours: Totals, base: Totals | None, seed: int
) -> tuple[float | None, Interval | None]:
    """Return tokens a pass with its interval; with a base, over the base's on the same questions.

    The bootstrap draws questions, turns and draws of one together, and forms the ratio of each
    resample's totals: of both in the same resample, so that the comparison is paired.
    """
    names = [name for name in ours if base is None or name in base]
    if not names:
        return None, None
    columns = [list(ours[name]) for name in names]
    if base is not None:
        columns = [[*own, *base[name][::-1]] for own, name in zip(columns, names, strict=True)]
    counts = np.array(columns, dtype=np.float64)  # kept, passes and the base's passes, kept

    def statistic(_: Any, weights: Any) -> Any:
        sums = weights @ counts
        return np.prod(sums[:, ::2] / sums[:, 1::2], axis=1)

    value = float(statistic(None, np.ones((1, len(names))))[0])
    interval = bootstrap_interval(
        [0.0] * len(names), statistic, clusters=list(map(question_of, names)), seed=seed
    )
    return value, interval


def ablation_table(manifest: AblationManifest, rows: Sequence[VariantFigures], run: Run) -> str:
    """Return the report.

    Args:
        manifest: The ablation's.
        rows: As `figures` returns them.
        run: The run in which the variants were measured.
    """
    configuration = manifest.configuration
    parts = [f"# Ablation of `{configuration['ablation']}` on {configuration['model']}"]
    for task in dict.fromkeys(row.summary.task for row in rows):
        # A line is found by its method: each variant has its own checkpoint, and so its own label.
        own = {row.summary.method: row for row in rows if row.summary.task == task}
        lines = [Line("1", "run", run[0], row.summary) for row in own.values()]
        references = [Line("1", "run", run[0], each) for each in run[1] if each.task == task]
        parts += [f"## {task}", subtitle(lines)]
        parts.append(markdown_table(Grid(_columns(lines, own), tuple(lines))))
        measured = [line for line in lines if own[line.summary.method].collapsed is None]
        warned = notes(measured) if measured else []
        parts.append("\n".join(f"- {note}" for note in [_reference(references[0]), *warned]))
    parts += ["## How to read this", LEGEND.format(baseline=f"`{run[0].baseline}`")]
    parts += ["## Fixed settings", "\n".join(f"- {line}" for line in _fixed(manifest))]
    parts += ["## Conditions", "\n".join(f"- {line}" for line in conditions([run]))]
    parts += ["## To repeat", f"```bash\n{shlex.join(manifest.argv)}\n```"]
    return "\n\n".join(parts) + "\n"


def _columns(lines: Sequence[Line], own: Mapping[str, VariantFigures]) -> tuple[Column, ...]:
    def variant(text: Callable[[VariantFigures], str]) -> Callable[[Line], str]:
        return lambda line: text(own[line.summary.method])

    shown = {column.title: column for column in MAIN}
    names = ("speedup", "vs own AR", "score", "Δ score", "exact match", "failed")
    counters = [
        column
        for column in mechanism_columns(lines)
        if column.title in {name.replace("_", " ") for name in _counters(lines)}
    ]
    columns = (
        Column("tokens/pass", variant(_tokens_per_pass)),
        Column("vs base", variant(_versus)),
        *(shown[name] for name in names),
        *counters,
        Column("training", variant(_training), left=True),
        shown["method"],
    )
    wanted = [column for column in columns if column.wanted(lines)]
    name = Column("variant", variant(_variant), left=True)
    return (name, *(_where_measured(column, own) for column in wanted))


def _where_measured(column: Column, own: Mapping[str, VariantFigures]) -> Column:
    def text(line: Line) -> str:
        measured = own[line.summary.method].collapsed is None
        return column.text(line) if measured else formats.ABSENT

    return replace(column, text=text)


def _counters(lines: Sequence[Line]) -> set[str]:
    return {name for line in lines for name in line.summary.counters}


def _variant(row: VariantFigures) -> str:
    name, collapsed = row.variant, row.collapsed
    text = f"**{name}**" if name == BASE else f"{name}"
    return text if collapsed is None else f"{text} ({collapsed.partition(';')[0]})"


def _tokens_per_pass(row: VariantFigures) -> str:
    # A plain figure, not in per cent.
    return formats.score(row.tokens_per_pass, row.tokens_per_pass_ci, best=math.inf)


def _versus(row: VariantFigures) -> str:
    if row.variant == BASE and row.tokens_per_pass_vs_base is not None:
        return "1×"
    return formats.ratio(row.tokens_per_pass_vs_base, row.tokens_per_pass_vs_base_ci)


def _training(row: VariantFigures) -> str:
    took = row.training
    texts = [
        None if took.steps is None else f"{took.steps:,} steps",
        None if took.seconds is None else f"{formats.significant(took.seconds)} s",
        f"{took.questions:,} questions",
    ]
    return ", ".join(text for text in texts if text is not None)


def _reference(line: Line) -> str:
    s = line.summary
    return (
        f"`{s.method}` on the target checkpoint: score "
        f"{formats.score(s.score, s.score_ci, s.best_score)}, "
        f"{formats.significant(s.tokens_per_second)} tokens per second"
    )


def _fixed(manifest: AblationManifest) -> list[str]:
    configuration = manifest.configuration
    base = configuration["variants"][BASE]
    settings = ", ".join(f"{name}={value}" for name, value in base["recipe"].items())
    questions = ", ".join(
        f"{found.questions:,} of {name} ({found.source})"
        for name, found in manifest.training_questions.items()
    )
    return [
        f"settings of `{configuration['ablation']}`, except those that a row names: `{settings}`",
        f"training questions: {questions}",
        f"decoding: `{base['method']}`, except the checkpoint and what a row's method names",
    ]
