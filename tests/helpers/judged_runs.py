"""Judged runs: a key, prompts, retries without waiting, and readers of what a judging wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from judge_server import Answer, said

from cllm_bench.contracts import JudgePrompt
from cllm_bench.judge.endpoint import RetryPolicy

KEY = "sk-very-secret-0123456789"


FAST = RetryPolicy(tries=3, first_wait=0.01, longest_wait=0.02, longest_retry_after=5, timeout=0.5)


CONVERSATIONS = 3


PROMPTS = 2 * CONVERSATIONS  # that differ: the two methods reply the same


PROMPT = JudgePrompt("You judge.", "How good is it?")


def no_key_in(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


def judgements(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "judgements.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {each["method"]: each for each in found}


def is_second(text: str) -> bool:
    return "Second turn:" in text


def good(text: str, _: int = 0) -> Answer:
    """Rate first turns 8 and second turns 5."""
    return said(f"Fine.\nRating: [[{5 if is_second(text) else 8}]]")
