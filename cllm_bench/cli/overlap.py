"""The command `overlap`: compares the questions of a training set with those of a test set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cllm_bench.api.options import OverlapOptions
from cllm_bench.contracts import ChatTask, Sample, Source, Split, Task
from cllm_bench.core.files import write_atomically
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, build, parse_selection
from cllm_bench.data.json_lines import read_json_lines
from cllm_bench.data.overlap import Match, Overlap, Question, by_turn, find_overlap, turns_of
from cllm_bench.errors import UserError

SHOWN = 5  # examples
LENGTH = 300  # of an example, in characters


class Questions(NamedTuple):
    """One of the two sets.

    Attributes:
        name: As reports show it.
        questions: In the order of the source.
        note: What a reader must know of the texts, or nothing.
    """

    name: str
    questions: Sequence[Question]
    note: str = ""


def overlap_command(options: OverlapOptions) -> None:
    """Print what the two sets share, and write it where the options say.

    Raises:
        UserError: A set is not there or is empty, or an option makes no sense.
    """
    if options.ngram < 1:
        raise UserError(f"--ngram must be at least 1, not {options.ngram}")
    if not 0 < options.threshold <= 1:
        raise UserError(f"--threshold must be above 0 and at most 1, not {options.threshold}")
    output = None if options.output is None else Path(options.output)
    if output is not None and output.suffix not in (".md", ".json"):
        raise UserError(f"--output '{output}' must end in .md or .json")
    registry = Registry(options.plugins)
    train = _questions(registry, "--train", options.train, "train")
    test = _questions(registry, "--test", options.test, "test")
    found = find_overlap(
        train.questions, test.questions, ngram=options.ngram, threshold=options.threshold
    )
    if output is not None:
        report = overlap_report if output.suffix == ".md" else as_json
        write_atomically(output, report(options, train, test, found))
    _show(options, train, test, found)


def _questions(registry: Registry, option: str, text: str, split: Split) -> Questions:
    """Read a set: a JSON-lines file, TASK=DIR, or TASK with settings."""
    path = Path(text).expanduser()
    name, equals, where = text.partition("=")
    if path.is_file():
        entries = read_json_lines(path)
        lines = [(f"{path.name}:{entry.line}", entry.asked()) for entry in entries]
        return _by_turn(path.name, lines, "")
    if path.suffix == ".jsonl" or "/" in name:
        raise UserError(f"{option}: no file '{text}'; give TASK, TASK=DIR or a JSON-lines file")
    named = bool(equals) and ":" not in name
    selection = Selection(name, {}) if named else parse_selection(text)
    task: Task = build(registry.tasks.get(selection.name), "task", selection)
    source = _source(option, where, split) if named else Source("built-in", split=split)
    found = task.samples(source)
    if not found.samples:
        raise UserError(f"{option}: {selection.name} ({found.label}) has no questions")
    return _by_turn(
        name=f"{selection.name} ({found.label})",
        asked=[(sample.id, turns_of(task, sample)) for sample in found.samples],
        note="" if _has_text(task, found.samples[0]) else "whole prompts are compared",
    )


def _by_turn(name: str, asked: Sequence[tuple[str, Sequence[str]]], note: str) -> Questions:
    """Make a question of every turn, once where several samples continue one conversation."""
    found = dict.fromkeys(question for each in asked for question in by_turn(*each))
    if any(len(turns) > 1 for _, turns in asked):
        note = "each turn counts as a question"
    return Questions(name, list(found), note)


def _source(option: str, where: str, split: Split) -> Source:
    if where == "built-in":
        return Source("built-in", split=split)
    if where == "hub":
        return Source("hub", split=split)
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise UserError(f"{option}: no folder '{where}' (nor is it `built-in` or `hub`)")
    return Source("folder", folder, split)


def _has_text(task: Task, sample: Sample) -> bool:
    return isinstance(task, ChatTask) or isinstance(sample.data.get("question"), str)


def _lines(
    options: OverlapOptions, train: Questions, test: Questions, found: Overlap
) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Return what was compared, and the rows of the table."""
    about = [
        f"{kind}: {side.name}, {len(side.questions):,} questions"
        + (f"; {side.note}" if side.note else "")
        for kind, side in (("train", train), ("test", test))
    ]
    about.append(
        f"near-duplicate: at least {options.threshold:.0%} of a test question's runs of "
        f"{options.ngram} words stand in one training question"
    )
    if found.whole:
        about.append(
            f"{found.whole:,} of the test questions have fewer words than that: they are compared "
            "whole, and are not found within a longer text"
        )
    counts = (
        ("in the training set", len(found.exact)),
        ("near-duplicate there", len(found.near)),
        ("neither", found.neither),
    )
    return about, [(kind, count, f"{count / found.test:.1%}") for kind, count in counts]


def overlap_report(
    options: OverlapOptions, train: Questions, test: Questions, found: Overlap
) -> str:
    """Return the report as Markdown, with a few examples."""
    about, rows = _lines(options, train, test, found)
    parts = [
        "# Questions that training and test share",
        "\n".join(f"- {line}" for line in about),
        "\n".join(
            (
                "| test questions       | count | share |",
                "| -------------------- | ----: | ----: |",
                *(f"| {kind:20} | {count:5} | {share:>5} |" for kind, count, share in rows),
            )
        ),
    ]
    for title, matches in (("In the training set", found.exact), ("Near-duplicates", found.near)):
        if matches:
            examples = "\n".join(_example(match) for match in matches[:SHOWN])
            parts += [f"## {title}: {min(SHOWN, len(matches))} of {len(matches)}", examples]
    return "\n\n".join(parts) + "\n"


def _example(match: Match) -> str:
    return (
        f"- {match.similarity:.0%}\n"
        f"  - test `{match.test.id}`: {_short(match.test.text)}\n"
        f"  - train `{match.train.id}`: {_short(match.train.text)}"
    )


def as_json(options: OverlapOptions, train: Questions, test: Questions, found: Overlap) -> str:
    """Return the report as JSON, with all matches."""
    report: dict[str, Any] = {
        "train": {"name": train.name, "questions": found.train, "note": train.note},
        "test": {"name": test.name, "questions": found.test, "note": test.note},
        "ngram": options.ngram,
        "threshold": options.threshold,
        "compared_whole": found.whole,
    }
    for kind, matches in (("exact", found.exact), ("near", found.near)):
        report[kind] = {
            "count": len(matches),
            "share": len(matches) / found.test,
            "matches": [
                {
                    "similarity": match.similarity,
                    "test": match.test._asdict(),
                    "train": match.train._asdict(),
                }
                for match in matches
            ],
        }
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _show(options: OverlapOptions, train: Questions, test: Questions, found: Overlap) -> None:
    console = Console(soft_wrap=True, highlight=False)
    about, rows = _lines(options, train, test, found)
    for line in about:
        console.print(Text(line))
    table = Table("test questions", title_justify="left")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    for kind, count, share in rows:
        table.add_row(kind, f"{count:,}", share)
    console.print(table)
    for kind, matches in (("same", found.exact), ("near", found.near)):
        for match in matches[:SHOWN]:
            console.print(Text(f"{kind}, {match.similarity:.0%}:", style="bold"))
            console.print(Text(f"  test  {match.test.id}: {_short(match.test.text)}"))
            console.print(Text(f"  train {match.train.id}: {_short(match.train.text)}"))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else f"{line[: LENGTH - 1]}…"
