"""Writes articles from templates: the machinery of the built-in texts.

A template is a sentence with choices, `(red|blue|)`, and slots, `{river}`. A slot that is a fact of
the article stands for the same wherever it occurs in it; any other is drawn from the pool of its
name, never twice the same within a sentence.

A sentence belongs to one split for ever: a hash of its text decides. So the test has no sentence
that stands in the training text, whoever trains on however much of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import NamedTuple

from cllm_bench.contracts import Split

from .pools import POOLS

# One sentence in so many is kept for the test.
_TEST_EVERY = 8
_DRAWS = 400
_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")


class Part(NamedTuple):
    """A paragraph of an article.

    Attributes:
        heading: Above it; the first part has none.
        first: Templates of its first sentence.
        others: Templates of the others, each used at most once.
        length: The fewest and the most of those others.
    """

    heading: str | None
    first: tuple[str, ...]
    others: tuple[str, ...]
    length: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of article.

    Attributes:
        title: A template.
        facts: For each fact of the article the pool that it is drawn from.
        parts: In order.
    """

    title: str
    facts: Mapping[str, str]
    parts: tuple[Part, ...]


class Article(NamedTuple):
    """An article: its title, and its parts as heading and sentences."""

    title: str
    parts: tuple[tuple[str | None, tuple[str, ...]], ...]


def split_of(sentence: str) -> Split:
    """Return the one split that a sentence belongs to."""
    digest = sha256(sentence.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0 else "train"


def write(topic: Topic, rng: Random, split: Split, finish: Callable[[str], str]) -> Article:
    """Write an article of one split.

    Args:
        topic: What it is about.
        rng: Decides everything that is open.
        split: Of all its sentences.
        finish: Gives a sentence the form of its text.
    """
    while True:
        facts: dict[str, str] = {}
        for name, pool in topic.facts.items():
            facts[name] = _drawn(pool, rng, facts.values())
        parts = []
        for part in topic.parts:
            sentences = _sentences(part, facts, rng, split, finish)
            if sentences is None:
                break  # these facts allow no sentence of this split: try others
            parts.append((part.heading, sentences))
        else:
            return Article(_filled(topic.title, facts, rng), tuple(parts))


def _sentences(
    part: Part, facts: Mapping[str, str], rng: Random, split: Split, finish: Callable[[str], str]
) -> tuple[str, ...] | None:
    written: list[str] = []
    left = list(part.first)
    wanted = 1 + rng.randint(*part.length)
    for _ in range(_DRAWS):
        template = rng.choice(left)
        text = finish(_filled(template, facts, rng))
        if split_of(text) != split:
            continue
        written.append(text)
        if len(written) == wanted:
            return tuple(written)
        if len(written) == 1:
            left = list(part.others)
        else:
            left.remove(template)
    return None


def _drawn(pool: str, rng: Random, taken: Collection[str]) -> str:
    while True:
        word = rng.choice(POOLS[pool])
        if word not in taken:
            return word


def _filled(template: str, facts: Mapping[str, str], rng: Random) -> str:
    used: set[str] = set()

    def drawn(match: re.Match[str]) -> str:
        name = match[1]
        if name in facts:
            return facts[name]
        word = _drawn(name, rng, used)
        used.add(word)
        return word

    chosen = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return " ".join(_SLOT.sub(drawn, chosen).split())
