"""Finds the data source of each task from `--data` and `--model`. Nothing falls back silently.

Where `--data` says nothing, a family that was made for the built-in samples is asked these, and any
other model the public data set. `built-in` and `hub` name these two in place of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cllm_bench.contracts import Source, Split
from cllm_bench.core.registry import Registry
from cllm_bench.errors import UserError, did_you_mean


def task_sources(
    registry: Registry,
    tasks: Sequence[str],
    data: Sequence[str],
    *,
    built_in: bool,
    split: Split = "test",
) -> dict[str, Source]:
    """Return the source of each task.

    Args:
        registry: Knows the usual folder names of each task.
        tasks: Names of the tasks.
        data: What `--data` gave: `TASK=DIR`, or one DIR; `built-in` and `hub` stand for a DIR too.
        built_in: Whether a task without data asks its built-in sample, or the public data set.
        split: Which questions.

    Raises:
        UserError: A folder that is not there, an unknown task, or two folders without a task.
    """
    named, common = _parse(data)
    for name in named:
        if name not in tasks:
            raise UserError(
                f"--data {name}=…: no such task in this run; {did_you_mean(name, tasks)}"
            )
    default = Source("built-in" if built_in else "hub")
    sources: dict[str, Source] = {}
    for name in tasks:
        if name in named:
            where = named[name]
            sources[name] = where if isinstance(where, Source) else Source("folder", where)
        elif isinstance(common, Path):
            folder = _find(common, registry.tasks.get(name).folders, name, len(tasks))
            sources[name] = Source("folder", folder)
        else:
            sources[name] = common or default
    return {name: replace(source, split=split) for name, source in sources.items()}


def _parse(data: Sequence[str]) -> tuple[Mapping[str, Path | Source], Path | Source | None]:
    named: dict[str, Path | Source] = {}
    common: Path | Source | None = None
    for text in data:
        name, equals, path = text.partition("=")
        if equals and "/" not in name:
            named[name] = _where(path)
        elif common is not None:
            raise UserError("--data takes one DIR for all tasks; use TASK=DIR for several")
        else:
            common = _where(text)
    return named, common


def _where(text: str) -> Path | Source:
    if text == "built-in":
        return Source("built-in")
    if text == "hub":
        return Source("hub")
    path = Path(text).expanduser()
    if not path.is_dir():
        raise UserError(f"--data: no folder '{text}' (nor is it `built-in` or `hub`)")
    return path


def _find(root: Path, names: Sequence[str], task: str, tasks: int) -> Path:
    """Return the task's folder within a folder of folders, or the folder itself."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    if tasks > 1:
        raise UserError(
            f"--data {root}: no folder for task '{task}' in it (looked for {', '.join(names)}); "
            f"use --data {task}=DIR"
        )
    return root
