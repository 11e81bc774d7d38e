"""Texts from elsewhere (names, replies, errors) with nothing left in them that acts on a page."""

from __future__ import annotations

import re

# Control characters but line feed and tab, separators of lines, invisible and bidirectional
# controls, lone surrogates and what XML forbids. Joiners stay: scripts and emoji need them.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Return a text whose control characters are spelled out, such as `\x1b` for an escape."""
    return _ACTING.sub(_spelled, text)


def shortened(text: str, most: int) -> str:
    """Return a visible text on one line, of at most a number of characters."""
    line = " ".join(visible(text[: 4 * most]).split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 1]}…"


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
