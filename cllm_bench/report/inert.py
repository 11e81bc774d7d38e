"""Text of unknown origin, made safe to show: names, errors and messages may hold anything."""

from __future__ import annotations

from cllm_bench.report.numbers import ABSENT

_MARKUP = str.maketrans({character: f"\\{character}" for character in "|<[`"})


def inert(text: str, limit: int = 200) -> str:
    """Return a text on one line that neither a terminal nor Markdown takes for a command.

    Control and format characters, such as escapes and changes of the writing direction, are shown
    by their numbers; what opens a tag, a link, code or a table's cell is escaped; a long text is
    cut.

    Args:
        text: Anything.
        limit: The most characters that are shown.
    """
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown).translate(_MARKUP) or ABSENT
