"""Where the figures come from: checkpoints, prompts, and the command that repeats the run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from cllm_bench.results.manifest import CheckpointSource, Manifest

SHOWN_DIGITS = 10  # of a hash
_PROGRAM = "cllm-bench"
_AS_A_MODULE = "__main__.py"  # what `python -m cllm_bench` is called


def short_hash(fingerprint: str) -> str:
    """Return the first digits of a hash, without its kind."""
    return fingerprint.rpartition(":")[2][:SHOWN_DIGITS]


def checkpoints(manifest: Manifest) -> Iterator[str]:
    """Return for each role in use where its weights come from, and the beginning of their hash."""
    for role, source in manifest.used_sources.items():
        yield f"{role} {_place(source)}{short_hash(source.fingerprint)}"


def brief_checkpoints(manifest: Manifest) -> Iterator[str]:
    """Return the same, of a folder its name only."""
    for role, source in manifest.used_sources.items():
        where = _brief_place(source)
        yield f"{role} {short_hash(source.fingerprint)}{f' ({where})' if where else ''}"


def _place(source: CheckpointSource) -> str:
    if source.location is None:
        return "weights "
    revision = f"@{source.revision}" if source.revision else ""
    bundled = " (bundled)" if source.kind == "bundled" else ""
    what = "commit" if source.kind == "hub" else "weights"
    return f"`{source.location}{revision}`{bundled}, {what} "


def _brief_place(source: CheckpointSource) -> str | None:
    if source.location is None or source.kind == "bundled":
        return source.kind
    revision = f"@{source.revision}" if source.revision else ""
    if source.kind == "hub":
        return f"{source.location}{revision}"
    return "/".join(source.location.replace("\\", "/").split("/")[-2:])


def prompts(manifest: Manifest) -> Iterator[str]:
    """Return for each task its template, and the beginning of the hash of questions and prompts."""
    stored = manifest.configuration.get("tasks", {})
    for task in manifest.tasks:
        found = stored.get(task.task, {}).get("data")
        known = f" ({short_hash(str(found))})" if found else ""
        yield f"{task.task} {task.template}{known}"


def command(manifest: Manifest) -> str | None:
    """Return the command line that began the run; None for a run that Python code began."""
    match manifest.argv:
        case (program, *arguments) if program == _PROGRAM:
            return shlex.join([_PROGRAM, *arguments])
        case (program, "run" | "ablate", *_) if program == _AS_A_MODULE:
            return shlex.join([_PROGRAM, *manifest.argv[1:]])
    return None
