"""JSON lines: what is read, and how a damaged line is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cllm_bench.data.json_lines import read_json_lines
from cllm_bench.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.jsonl"


def test_lines_keep_their_numbers(file: Path) -> None:
    file.write_bytes('\ufeff{"a": "one\u2028two"}\r\n\n  \n{"a": "three"}'.encode())
    entries = read_json_lines(file)
    assert [(entry.line, entry.text("a")) for entry in entries] == [
        (1, "one\u2028two"),
        (4, "three"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "x"}\n{"a": \n', "some.jsonl line 2: no JSON: Expecting value at column 7"),
        (b'{"a": "x"}\n\n["a"]\n', 'some.jsonl line 3: ["a"] where an object must be'),
        (b'{"a": "x"}\n{"a": "\xff"}\n', "some.jsonl line 2: no UTF-8 at byte 18 of the file"),
        (b"[" * 100_000, "some.jsonl line 1: no JSON: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "some.jsonl line 1: no JSON: "),
        (b" \n\n", "some.jsonl' is empty"),
        (
            b'{"a": "\\ud83d\\ude00"}\n{"a": ["x\\ud83d"]}\n',
            r"some.jsonl line 2: '\ud83d' is half of a surrogate pair and no text; correct",
        ),
        (b'{"\\uDE00": 1}\n', r"some.jsonl line 1: '\ude00' is half of a surrogate pair"),
    ],
    ids=[
        "half a line",
        "a list",
        "latin-1",
        "deep",
        "a huge number",
        "empty",
        "half a character",
        "half a character in a name",
    ],
)
def test_damaged_files(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_json_lines(file)
    assert "\n" not in str(error.value)
    assert str(error.value).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"b": "x", "c": 1}', "line 1: no field 'a'; it has b, c;"),
        ("{}", "line 1: no field 'a'; it has none;"),
        ('{"a": 7}', "line 1: field 'a' holds 7 instead of text;"),
        ('{"a": null}', "line 1: field 'a' holds null instead of text;"),
        ('{"a": " \\n"}', "line 1: field 'a' holds \" \\n\" instead of text;"),
    ],
)
def test_a_field_that_is_no_text(file: Path, line: str, message: str) -> None:
    file.write_text(line)
    (entry,) = read_json_lines(file)
    with pytest.raises(UserError, match=re.escape(message)):
        entry.text("a")


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ('{"question": "q"}', ("q",)),
        ('{"question": "q", "prompt": "p", "turns": ["t"]}', ("p",)),
        ('{"question_id": 1, "turns": ["one", "two"]}', ("one", "two")),
    ],
)
def test_what_an_entry_asks(file: Path, line: str, asked: tuple[str, ...]) -> None:
    file.write_text(line)
    assert read_json_lines(file)[0].asked() == asked


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "q"}', "line 1: no field prompt or question or turns; it has text;"),
        ('{"turns": []}', "line 1: field 'turns' holds [] instead of a list of texts;"),
        ('{"turns": "hello"}', "line 1: field 'turns' holds \"hello\" instead of a list"),
        ('{"turns": ["one", 2]}', "line 1: field 'turns' holds 2 instead of text;"),
        ('{"prompt": ""}', "line 1: field 'prompt' holds \"\" instead of text;"),
    ],
)
def test_an_entry_that_asks_nothing(file: Path, line: str, message: str) -> None:
    file.write_text(line)
    (entry,) = read_json_lines(file)
    with pytest.raises(UserError, match=re.escape(message)):
        entry.asked()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read '.*': Is a directory"):
        read_json_lines(tmp_path)
