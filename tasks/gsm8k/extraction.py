"""Finds the answer in a worked solution, as the field's common harness does.

The two expressions are those of the Language Model Evaluation Harness (EleutherAI, task `gsm8k`):
`strict-match` and `flexible-extract`. It compares what they find as text, without commas, dollar
signs and a full stop at the end; here it is compared as a number, so that 18.0 and `18...` are 18
too, and what is no number, such as `...` alone, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def strict_number(reply: str) -> Decimal | None:
    """Return the number after the first `####`, or None."""
    found = _STRICT.search(reply)
    return None if found is None else number(found[1])


def flexible_number(reply: str) -> Decimal | None:
    """Return the last number in the reply, or None."""
    found = None
    for match in _FLEXIBLE.finditer(reply):
        value = number(match[0])
        found = found if value is None else value
    return found


def number(text: str) -> Decimal | None:
    """Return the number that a text writes, with commas, a dollar sign or full stops, or None."""
    try:
        return Decimal(text.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None


EXTRACTIONS: Mapping[str, Callable[[str], Decimal | None]] = {
    "strict": strict_number,
    "flexible": flexible_number,
}
