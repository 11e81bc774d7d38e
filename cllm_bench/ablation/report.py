"""The figures and the table of an ablation: a line for each variant, compared with the base."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cllm_bench.ablation.variants import BASE, Variant
from cllm_bench.contracts import SampleSet, Task
from cllm_bench.core.sample_ids import question_of
from cllm_bench.report import numbers as formats
from cllm_bench.report.columns import MAIN, Column, Line, Manifest, Run, mechanism_columns
from cllm_bench.report.notes import conditions, notes, subtitle
from cllm_bench.report.statistics import Interval, bootstrap_interval, median
from cllm_bench.report.tables import Grid, markdown_table
from cllm_bench.results.rows import Row

LOG = "training_log.jsonl"  # that a recipe leaves in a checkpoint's folder
LEGEND = (
    "Every variant is one training; all were then measured in one run, every method answering "
    "every question in turn. **tokens/pass**: tokens kept for each pass of the verifying model, "
    "the ratio of totals. **vs base**: that, over the base's on the same questions; a bracket "
    "that leaves 1 out tells the two apart, as far as the questions go: what another seed of the "
    "training would give is in no bracket. Brackets are 95% intervals over questions; for these "
    "two figures by bootstrap, with the same draws for a variant and the base. **speedup** and "
    "**Δ score**: against {baseline} on the target checkpoint; **vs own AR** and **exact match**: "
    "against the baseline on the variant's own checkpoint. **training**: optimiser steps, seconds "
    "(steps × the log's median seconds a step: evaluations and pauses left out) and the questions "
    "given to the recipe. –: not measured. `run/table.md` tells more of the same run."
)
Totals = Mapping[str, tuple[int, int]]  # by question: tokens kept, passes


class TrainedVariant(NamedTuple):
    """One variant, as trained."""

    variant: Variant
    spec: str  # label of the method that decodes with it
    collapsed: str | None  # how its training collapsed
    training: Mapping[str, Any]


def training_figures(
    checkpoint: Path, material: Mapping[str, tuple[Task, SampleSet]]
) -> dict[str, Any]:
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
    return {
        "steps": steps,
        "seconds": None if pace is None or steps is None else pace * steps,
        "questions": sum(len(found.samples) for _, found in material.values()),
    }


def figures(
    entries: Sequence[TrainedVariant], run: Run, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Return an object for each task and variant: the run's figures, and those of an ablation."""
    manifest, summaries = run
    by_method = {(summary["task"], summary["method"]): summary for summary in summaries}
    totals = _totals(rows)
    found = []
    for task in [task["task"] for task in manifest["tasks"]]:
        # A base that collapsed has no rows, and then nothing is compared with it.
        base = totals[task, entries[0].spec]
        for entry in entries:
            measured = by_method.get((task, entry.spec))
            absent = dict.fromkeys(summaries[0]) | {"task": task, "counters": {}}
            ours = totals[task, entry.spec]
            found.append(
                {
                    "variant": entry.variant.label,
                    "changed": dict(entry.variant.changed),
                    "role": entry.variant.role,
                    "collapsed": entry.collapsed,
                    "training": dict(entry.training),
                    **(measured or absent),
                    **_compared(ours, base, entry is entries[0], manifest["seed"]),
                }
            )
    return found


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


def _compared(ours: Totals, base: Totals, is_base: bool, seed: int) -> dict[str, Any]:
    own, interval = ratio_of_totals(ours, None, seed)
    versus, paired = (own and 1.0, None) if is_base else ratio_of_totals(ours, base, seed)
    return {
        "tokens_per_pass": own,
        "tokens_per_pass_ci": interval and list(interval),
        "tokens_per_pass_vs_base": versus,
        "tokens_per_pass_vs_base_ci": paired and list(paired),
    }


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


def ablation_table(manifest: Manifest, rows: Sequence[Mapping[str, Any]], run: Run) -> str:
    """Return the report.

    Args:
        manifest: The ablation's.
        rows: As `figures` returns them.
        run: The run in which the variants were measured.
    """
    configuration = manifest["configuration"]
    parts = [f"# Ablation of `{configuration['ablation']}` on {configuration['model']}"]
    for task in dict.fromkeys(row["task"] for row in rows):
        lines = [Line("1", "run", run[0], row) for row in rows if row["task"] == task]
        references = [Line("1", "run", run[0], each) for each in run[1] if each["task"] == task]
        parts += [f"## {task}", subtitle(lines)]
        parts.append(markdown_table(Grid(_columns(lines), tuple(lines))))
        measured = [line for line in lines if line.summary["collapsed"] is None]
        warned = notes(measured) if measured else []
        parts.append("\n".join(f"- {note}" for note in [_reference(references[0]), *warned]))
    parts += ["## How to read this", LEGEND.format(baseline=f"`{run[0]['baseline']}`")]
    parts += ["## What was held fixed", "\n".join(f"- {line}" for line in _fixed(manifest))]
    parts += ["## Conditions", "\n".join(f"- {line}" for line in conditions([run]))]
    parts += ["## To repeat", f"```bash\n{shlex.join(manifest['argv'])}\n```"]
    return "\n\n".join(parts) + "\n"


def _columns(lines: Sequence[Line]) -> tuple[Column, ...]:
    shown = {column.title: column for column in MAIN}
    names = ("speedup", "vs own AR", "score", "Δ score", "exact match", "failed")
    counters = [
        column
        for column in mechanism_columns(lines)
        if column.title in {name.replace("_", " ") for name in _counters(lines)}
    ]
    columns = (
        Column("tokens/pass", _tokens_per_pass),
        Column("vs base", _versus),
        *(shown[name] for name in names),
        *counters,
        Column("training", _training, left=True),
        shown["method"],
    )
    wanted = [column for column in columns if column.wanted(lines)]
    return (Column("variant", _variant, left=True), *map(_where_measured, wanted))


def _where_measured(column: Column) -> Column:
    def text(line: Line) -> str:
        return column.text(line) if line.summary["collapsed"] is None else formats.ABSENT

    return replace(column, text=text)


def _counters(lines: Sequence[Line]) -> set[str]:
    return {name for line in lines for name in line.summary["counters"]}


def _variant(line: Line) -> str:
    name, collapsed = line.summary["variant"], line.summary["collapsed"]
    text = f"**{name}**" if name == BASE else f"{name}"
    return text if collapsed is None else f"{text} ({collapsed.partition(';')[0]})"


def _tokens_per_pass(line: Line) -> str:
    value, bounds = line.summary["tokens_per_pass"], line.summary["tokens_per_pass_ci"]
    return formats.score(value, bounds, best=math.inf)  # a plain figure, not in per cent


def _versus(line: Line) -> str:
    value, bounds = (
        line.summary["tokens_per_pass_vs_base"],
        line.summary["tokens_per_pass_vs_base_ci"],
    )
    if line.summary["variant"] == BASE and value is not None:
        return "1×"
    return formats.ratio(value, bounds)


def _training(line: Line) -> str:
    figures = line.summary["training"]
    texts = {
        "steps": f"{figures['steps'] or 0:,} steps",
        "seconds": f"{formats.significant(figures['seconds'])} s",
        "questions": f"{figures['questions']:,} questions",
    }
    return ", ".join(text for name, text in texts.items() if figures[name] is not None)


def _reference(line: Line) -> str:
    s = line.summary
    return (
        f"`{s['method']}` on the target checkpoint: score "
        f"{formats.score(s['score'], s['score_ci'], s['best_score'])}, "
        f"{formats.significant(s['tokens_per_second'])} tokens a second"
    )


def _fixed(manifest: Manifest) -> list[str]:
    configuration = manifest["configuration"]
    base = configuration["variants"][BASE]
    settings = ", ".join(f"{name}={value}" for name, value in base["recipe"].items())
    questions = ", ".join(
        f"{found['questions']:,} of {name} ({found['source']})"
        for name, found in manifest["training_questions"].items()
    )
    return [
        f"settings of `{configuration['ablation']}`, but for what a line names: `{settings}`",
        f"training questions: {questions}",
        f"decoding: `{base['method']}`, but for the checkpoint and what a line's method names",
    ]
