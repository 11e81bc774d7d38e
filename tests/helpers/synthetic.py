"""Manifests and rows with known answers."""

from __future__ import annotations

from typing import Any

from cllm_bench.results.folder import Row


def cell(method: str, checkpoint: str = "target", **changes: Any) -> dict[str, Any]:
    own = "ar" if checkpoint == "target" else f"ar:checkpoint={checkpoint}"
    plain = {"name": method, "settings": {}, "exactness": "exact", "parameters": 1000}
    return plain | {"method": method, "checkpoint": checkpoint, "baseline": own} | changes


def manifest(*cells: dict[str, Any], best_score: float = 1.0, samples: int = 6) -> dict[str, Any]:
    return {
        "configuration": {},
        "baseline": "ar",
        "cells": list(cells) or [cell("ar"), cell("jacobi")],
        "tasks": [
            {
                "task": "spider",
                "source": "built-in",
                "samples": samples,
                "left_out": {},
                "notes": [],
                "template": "spider-1",
                "metric": "execution accuracy",
                "best_score": best_score,
                "max_new_tokens": 256,
            }
        ],
        "repeats": 3,
        "seed": 0,
        "model": "mini",
        "machine": {"cpu": "EPYC", "cores": 2, "device": "cpu"},
        "runtime": {
            "device": "cpu",
            "dtype": "float32",
            "attention": "sdpa",
            "engine": "eager",
            "threads": 1,
        },
        "versions": {"python": "3.11.9", "cllm-bench": "0.1.0", "torch": "2.13.0", "numpy": "2"},
        "argv": ["cllm-bench", "run"],
        "git": {"commit": "abcdef0123456789", "changed_files": 0},
        "created": "2026-07-01T10:00:00+00:00",
    }


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
