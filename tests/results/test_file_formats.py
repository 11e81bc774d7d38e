"""docs/file-formats.md says of every key what the types in the code say."""

import re
from dataclasses import fields

import pytest
from file_formats import PAGE, STORED, descriptions, renewed

from cllm_bench.core.schema_version import SCHEMA


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert renewed(page) == page, "run: python tests/helpers/file_formats.py"


def test_every_stored_type_is_on_the_page() -> None:
    found = re.findall(r"<!-- keys of (\w+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(STORED)


@pytest.mark.parametrize("kind", STORED.values(), ids=lambda kind: kind.__name__)
def test_every_key_is_described(kind: type) -> None:
    assert set(descriptions(kind)) == {each.name for each in fields(kind)}


def test_every_link_has_its_heading() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = {f"#{name.lower()}" for name in re.findall(r"^#+ (\w+)$", page, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\((#\w+)\)", page)) <= headings


def test_the_newest_version_is_in_the_history() -> None:
    page = PAGE.read_text(encoding="utf-8")
    versions = re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)
    assert versions == [str(version) for version in range(1, SCHEMA + 1)]
