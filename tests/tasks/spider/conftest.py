"""A small Spider folder, and the real one where it is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sql_fixtures import make_database, write_spider
from sql_running import SECONDS

from cllm_bench_tasks.spider.sql_runner import SqlRunner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_spider(tmp_path / "spider")


@pytest.fixture
def real_spider(real_data: Path) -> Path:
    if not (real_data / "spider").is_dir():
        pytest.skip(f"no spider in {real_data}")
    return real_data / "spider"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "database"
    folder.mkdir()
    return make_database(folder / "singer.sqlite")


@pytest.fixture(scope="module")
def runner() -> Iterator[SqlRunner]:
    with SqlRunner(seconds=SECONDS, row_limit=1_000) as started:
        yield started
