"""Ids of samples: the question, its draws and its turns."""

from __future__ import annotations

import re

_TURN = re.compile(r"/turn-\d+$")


_DRAW = re.compile(r"/draw-\d+$")


def conversation(sample: str) -> str:
    """Return what a sample's turns have in common: `81` for both `81/turn-1` and `81/turn-2`."""
    return _TURN.sub("", sample)


def draw_ids(question: str, draws: int) -> list[str]:
    """Return the ids of samples that ask a question so many times: its own for once."""
    return [f"{question}/draw-{draw + 1}" for draw in range(draws)] if draws > 1 else [question]


def question_of(sample: str) -> str:
    """Return the id of the question: `7` for all of `7`, `7/draw-2` and `7/draw-2/turn-1`."""
    return _DRAW.sub("", conversation(sample))
