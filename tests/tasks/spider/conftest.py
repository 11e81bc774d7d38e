"""A small Spider folder, and the real one where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from sql_fixtures import write_spider


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_spider(tmp_path / "spider")


@pytest.fixture
def real_spider(real_data: Path) -> Path:
    if not (real_data / "spider").is_dir():
        pytest.skip(f"no spider in {real_data}")
    return real_data / "spider"
