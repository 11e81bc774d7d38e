"""The project's own conversations of two turns: MT-bench's eight categories, none of its text.

A small model can learn them: the first turn asks for something short, and the second makes no sense
without the first. A conversation belongs to one split for ever: the hash of what its first turn
tells decides, however it is worded. So no first turn of the test comes back in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from cllm_bench.contracts import Split

from .puzzles import coding, math, reasoning, stem
from .talks import extraction, humanities, roleplay, writing
from .words import Talk

TEST_CONVERSATIONS = 104
CATEGORIES: Mapping[str, Callable[[Random], Talk]] = {
    "writing": writing,
    "roleplay": roleplay,
    "reasoning": reasoning,
    "math": math,
    "coding": coding,
    "extraction": extraction,
    "stem": stem,
    "humanities": humanities,
}
_TEST_EVERY = 8  # one first turn in so many is kept for the test


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation.

    Attributes:
        id: Unique and stable within its split.
        category: One of `CATEGORIES`.
        facts: What the first turn tells, names left out where it tells more.
        turns: What the user says.
        replies: Right answers to the turns.
    """

    id: str
    category: str
    facts: tuple[object, ...]
    turns: tuple[str, str]
    replies: tuple[str, str]


def conversations(split: Split, count: int) -> tuple[Conversation, ...]:
    """Return the first conversations of a split; all categories take turns.

    In the test no facts come twice; in train they may come back in other words. A shorter result is
    the beginning of a longer one.
    """
    chosen: list[Conversation] = []
    seen: set[object] = set()
    rng = Random(f"conversations for {split}")
    names = tuple(CATEGORIES)
    while len(chosen) < count:
        category = names[len(chosen) % len(names)]
        talk = CATEGORIES[category](rng)
        mark = (category, talk.facts) if split == "test" else talk.turns
        if split_of(category, talk.facts) == split and mark not in seen:
            seen.add(mark)
            chosen.append(Conversation(f"{split}-{len(chosen):05d}", category, *talk))
    return tuple(chosen)


def split_of(category: str, facts: tuple[object, ...]) -> Split:
    """Return the one split that a first turn belongs to."""
    digest = sha256(repr((category, facts)).encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0 else "train"
