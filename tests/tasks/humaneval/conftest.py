"""A small HumanEval folder, and the sandbox that grading needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from humaneval_folders import PROBLEM, write

from cllm_bench.sandbox.isolation import strength


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "human_eval", [PROBLEM, {**PROBLEM, "task_id": "Test/1"}])


@pytest.fixture
def confined():
    if not strength().full:
        pytest.skip(f"{strength()}")
