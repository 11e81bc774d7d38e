"""Manifests and rows with known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cllm_bench.engine.runtime import Runtime
from cllm_bench.machine.environment import GitState, Machine
from cllm_bench.results.folder import Row
from cllm_bench.results.manifest import Manifest, MethodEntry, TaskEntry


def cell(method: str, checkpoint: str = "target", **changes: Any) -> MethodEntry:
    own = "ar" if checkpoint == "target" else f"ar:checkpoint={checkpoint}"
    plain = MethodEntry(
        method=method,
        name=method,
        settings={},
        checkpoint=checkpoint,
        exactness="exact",
        baseline=own,
        parameters=1000,
    )
    return replace(plain, **changes)


def task(label: str = "spider", **changes: Any) -> TaskEntry:
    plain = TaskEntry(
        task=label,
        source="built-in",
        samples=6,
        left_out={},
        notes=(),
        template="spider-1",
        metric="execution accuracy",
        best_score=1.0,
        max_new_tokens=256,
    )
    return replace(plain, **changes)


def manifest(*cells: MethodEntry, tasks: tuple[TaskEntry, ...] = (), **changes: Any) -> Manifest:
    """Return a manifest; `best_score` and `samples` are those of its only task."""
    of_task = {name: changes.pop(name) for name in ("best_score", "samples") if name in changes}
    plain = Manifest(
        argv=("cllm-bench", "run"),
        created="2026-07-01T10:00:00+00:00",
        versions={"python": "3.11.9", "cllm-bench": "0.1.0", "torch": "2.13.0", "numpy": "2"},
        machine=Machine(platform="Linux", cpu="EPYC", cores=2, device="cpu"),
        git=GitState("abcdef0123456789"),
        configuration={},
        model="mini",
        runtime=Runtime("cpu", "float32", "sdpa", "eager", 1),
        repeats=3,
        seed=0,
        baseline="ar",
        cells=cells or (cell("ar"), cell("jacobi")),
        tasks=tasks or (task(**of_task),),
    )
    return replace(plain, **changes)


def row(method: str, sample: str, seconds: float = 1.0, *, tokens: int = 11, **changes: Any) -> Row:
    """Return a row that decodes at `seconds` a token, one token a pass."""
    values: dict[str, Any] = {
        "key": f"{method}/{sample}/{changes.get('repeat', 0)}",
        "task": "spider",
        "sample": sample,
        "method": method,
        "checkpoint": "target",
        "repeat": 0,
        "order": 0,
        "attempt": 0,
        "prompt_tokens": 20,
        "token_ids": tuple(range(tokens)),
        "prefill_tokens": 1,
        "accept_lengths": (1,) * (tokens - 1),
        "drafted": (0,) * (tokens - 1),
        "prefill_seconds": 0.5,
        "decode_seconds": seconds * (tokens - 1),
        "finish": "stop",
        "error": None,
        "reply": "x",
        "score": 1.0 if changes.get("repeat", 0) == 0 else None,
        "verdict": "exact",
        "first_difference": None,
        "repetitive": False,
        "counters": {},
        "peak_memory_bytes": None,
    }
    return Row(**(values | changes))


def failed(method: str, sample: str, **changes: Any) -> Row:
    nothing: dict[str, Any] = {
        "token_ids": (),
        "prefill_tokens": 0,
        "accept_lengths": (),
        "drafted": (),
        "prefill_seconds": None,
        "decode_seconds": None,
        "reply": None,
        "score": None,
        "verdict": None,
        "finish": "failed",
        "error": "OutOfMemoryError: no memory",
    }
    return row(method, sample, **(nothing | changes))
