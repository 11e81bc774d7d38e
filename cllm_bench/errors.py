"""Exceptions with messages for the user, and the one that ends another library's loop."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

StopReason = Literal["stop", "length"]


class UserError(Exception):
    """A mistake in the user's input: one line with the value and the remedy. Exit code 2."""


class TrainingCollapsed(Exception):  # noqa: N818 - it is an outcome, not a fault
    """A training that was stopped because it diverged: one line with the figure. Exit code 1."""


class ReplyEnded(Exception):  # noqa: N818 - nothing went wrong
    """The reply is complete. It ends the loop of a `LibraryDecoder`, which must not catch it."""

    def __init__(self, finish: StopReason) -> None:
        super().__init__(finish)
        self.finish: StopReason = finish


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return the tail of an error about an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "none is known"
