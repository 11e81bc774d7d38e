"""Makes text of unknown origin safe to show on a terminal and in Markdown.

Names, errors and messages of models, plugins and endpoints may hold anything: control sequences
that move a terminal's cursor, line breaks, marks that reverse the direction of writing, HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Control characters but line feed and tab, separators of lines, invisible and bidirectional format
# characters, lone surrogates and what XML forbids. Joiners stay: scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])\(|\\(?=\|)")
_ENTITIES = {"<": "&lt;", "(": "&#40;", "\\": "&#92;"}


def printable(text: str) -> str:
    r"""Return a text as one line in which a terminal finds nothing to obey.

    Line breaks become spaces; other control characters appear as escapes, such as `\x1b`.
    """
    return text if text.isprintable() else visible(_BREAKS.sub(" ", text))


def visible(text: str) -> str:
    """Return the same, with the lines and tabs that the text has."""
    return _HIDDEN.sub(_escape, text)


def all_printable(value: T) -> T:
    """Return a copy of a value, whose texts, however deep in it, are `printable`.

    Args:
        value: Texts, numbers, and mappings, tuples, lists and dataclasses of these.
    """
    return _copied(value)  # type: ignore[no-any-return]


def clipped(text: str, length: int) -> str:
    """Return a text of at most `length` characters, the middle left out where it is longer."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def without_markup(text: str) -> str:
    """Return Markdown in which no HTML, link or image takes effect, by entities in their place.

    Args:
        text: Markdown outside of code; emphasis and code spans in it stay.
    """
    return _MARKUP.sub(lambda found: _ENTITIES[found[0]], text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _copied(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: _copied(getattr(value, each.name)) for each in fields(value)}
        return type(value)(**own)
    if isinstance(value, Mapping):
        return {_copied(key): _copied(each) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return list(map(_copied, value))
    return value
