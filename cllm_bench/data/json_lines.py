"""Reads JSON-lines files: an object a line. A damaged line is named with its file and number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cllm_bench.core.files import reading
from cllm_bench.errors import UserError

ASKED = ("prompt", "question", "turns")


class JsonLine(NamedTuple):
    """One line.

    Attributes:
        path: Of the file.
        line: Counted from 1.
        fields: What the object holds.
    """

    path: Path
    line: int
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a field that must hold text, and not only white space.

        Raises:
            UserError: It is not there, or is something else.
        """
        if name not in self.fields:
            raise self.damaged(f"no field '{name}'; {self._found()}")
        return self._checked(name, self.fields[name])

    def asked(self) -> tuple[str, ...]:
        """Return what a user says turn by turn: the first of the fields `ASKED` that is there.

        Raises:
            UserError: None is, or it holds something else than text.
        """
        name = next((name for name in ASKED if name in self.fields), None)
        if name is None:
            raise self.damaged(f"no field {' or '.join(ASKED)}; {self._found()}")
        if name != "turns":
            return (self.text(name),)
        turns = self.fields[name]
        if not isinstance(turns, list) or not turns:
            raise self.damaged(f"field 'turns' holds {_shown(turns)} instead of a list of texts")
        return tuple(self._checked(name, turn) for turn in turns)

    def damaged(self, what: str) -> UserError:
        """Return the error that names this line."""
        return damaged(self.path, self.line, what)

    def _checked(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.damaged(f"field '{name}' holds {_shown(value)} instead of text")
        return value

    def _found(self) -> str:
        return f"it has {', '.join(self.fields)}" if self.fields else "it has none"


def read_json_lines(path: Path) -> tuple[JsonLine, ...]:
    """Read a file; blank lines are passed over.

    Raises:
        UserError: It cannot be read, is empty, or a line is no JSON object or holds no whole text.
    """
    with reading(path):
        data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise damaged(path, line, f"no UTF-8 at byte {error.start} of the file") from None
    # Not splitlines(): a text may hold other line separators than the file's own.
    lines = enumerate(text.split("\n"), start=1)
    entries = tuple(_entry(path, number, line) for number, line in lines if line.strip())
    if not entries:
        raise UserError(f"'{path}' is empty: it must hold a JSON object a line")
    return entries


def damaged(path: Path, line: int, what: str) -> UserError:
    """Return the error that names a line."""
    return UserError(f"{path} line {line}: {what}; correct the line or take it out")


def _entry(path: Path, number: int, line: str) -> JsonLine:
    try:
        fields = json.loads(line)
        # An escape may stand for half a character, which nothing can hash, store or print.
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise damaged(path, number, f"{half} is half of a surrogate pair and no text") from None
    except json.JSONDecodeError as error:
        raise damaged(path, number, f"no JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise damaged(path, number, f"no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise damaged(path, number, f"{_shown(fields)} where an object must be")
    return JsonLine(path, number, fields)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
