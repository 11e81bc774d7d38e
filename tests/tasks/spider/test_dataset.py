"""What a user is told about a folder that is not Spider, or is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sql_fixtures import rewrite, with_value, without

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.spider.dataset import read_spider
from cllm_bench_tasks.spider.task import Spider


def make_folder_of_it(folder: Path) -> None:
    (folder / "dev.json").unlink()
    (folder / "dev.json").mkdir()


def test_what_is_read(folder: Path) -> None:
    found = read_spider(folder, "test")
    assert [question.id for question in found.questions] == [f"dev-000{i}" for i in range(4)]
    assert found.questions[1].text == "Old?"
    assert [table.name for table in found.tables["band"]] == ["singer", "concert"]
    assert found.tables["band"][0].columns == ("id", "name", "age")
    assert found.databases == {"band": folder / "database" / "band" / "band.sqlite"}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no dev.json": (lambda f: (f / "dev.json").unlink(), r"no dev\.json; give --data"),
    "no tables.json": (lambda f: (f / "tables.json").unlink(), r"no tables\.json; give --data"),
    "no database": (lambda f: (f / "database").rename(f / "x"), r"no database; give --data"),
    "no databases": (
        lambda f: (f / "database" / "band").rename(f / "x"),
        r"database' has no NAME/NAME\.sqlite",
    ),
    "malformed": (
        lambda f: (f / "dev.json").write_text('[{"db_id": "band",\n "question" 1}]'),
        r"dev\.json is damaged: .* at line 2 column 13",
    ),
    "cut off": (
        lambda f: (f / "tables.json").write_text('[{"db_id": "ba'),
        r"tables\.json is damaged: .* at line 1 column 12",
    ),
    "not text": (
        lambda f: (f / "dev.json").write_bytes(b'["\xff"]'),
        r"dev\.json is damaged: no UTF-8 at byte 2",
    ),
    "nested": (
        lambda f: (f / "dev.json").write_text("[" * 200_000),
        r"dev\.json is damaged: ",
    ),
    "not a list": (rewrite("dev.json", lambda _: {"a": 1}), r"dev\.json is damaged: not a list"),
    "empty": (rewrite("dev.json", lambda _: []), r"dev\.json is damaged: not a list"),
    "not an entry": (rewrite("dev.json", lambda _: [1]), r"entry 0 has no text 'db_id'"),
    "a folder": (
        make_folder_of_it,
        r"cannot read .*dev\.json: Is a directory",
    ),
    "no query": (rewrite("dev.json", without(2, "query")), r"entry 2 has no text 'query'"),
    "no question": (rewrite("dev.json", without(1, "question")), r"entry 1 has no text"),
    "a number": (rewrite("dev.json", with_value(1, "query", 7)), r"entry 1 has no text 'query'"),
    "escape": (
        rewrite("dev.json", with_value(1, "db_id", "../band")),
        r"entry 1 has '\.\./band' for db_id",
    ),
    "no columns": (
        rewrite("tables.json", without(0, "column_names_original")),
        r"tables\.json is damaged: entry 0 has no list 'column_names_original'",
    ),
    "odd columns": (
        rewrite("tables.json", with_value(0, "column_names_original", [7])),
        r"tables\.json is damaged: entry 0 has columns",
    ),
    "unknown database": (rewrite("tables.json", lambda e: e[:1]), r"has no database 'gone'"),
    "wrong query": (
        rewrite("dev.json", with_value(0, "query", "SELECT x FROM y")),
        r"`SELECT x FROM y` does not run on .*band\.sqlite: syntax, no such table: y",
    ),
    "no sqlite": (
        lambda f: (f / "database/band/band.sqlite").write_text("version https://git-lfs" * 99),
        r"does not run on .*band\.sqlite: database, file is not a database",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_folder(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        Spider().samples(Source("folder", folder))
    assert "\n" not in str(caught.value)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder '.*nowhere'; give --data the folder of Spider"):
        Spider().samples(Source("folder", tmp_path / "nowhere"))
    with pytest.raises(UserError, match="give --data"):
        Spider().samples(Source("folder"))
    with pytest.raises(UserError, match=r"no databases.*give --data spider=FOLDER"):
        Spider().samples(Source("hub"))
