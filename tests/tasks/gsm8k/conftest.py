"""A small GSM8K folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from gsm8k_folders import ROWS, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(write(tmp_path / "gsm8k", ROWS), ROWS[:1], "train.jsonl")
