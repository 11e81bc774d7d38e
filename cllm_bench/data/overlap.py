"""Questions that a training set and a test set share: the same, or nearly the same.

Two questions are the same when they have the same words in the same order; case, punctuation and
white space do not count. A test question has a near-duplicate when a given share of its word
n-grams stands in one training question, as in the analysis of PaLM (Chowdhery et al., 2022, section
8). The measure is one-sided, so that a question is also found within a longer training text; one
with fewer words than a run is compared whole, for its few words stand in many texts. No sketch is
involved: every pair that reaches the threshold is found.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cllm_bench.contracts import ChatTask, Sample
from cllm_bench.core.sample_ids import conversation

_WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


class Question(NamedTuple):
    """A question and the name under which it is reported."""

    id: str
    text: str


class Match(NamedTuple):
    """A test question, and the training question that is most like it.

    Attributes:
        similarity: The share of the test question's n-grams that the other has too.
    """

    test: Question
    train: Question
    similarity: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two sets share; each test question counts once.

    Attributes:
        train: Number of training questions.
        test: Number of test questions.
        exact: Test questions that are in the training set.
        near: Others that have a near-duplicate there, the most similar first.
        whole: Number of test questions with fewer words than a run: they are found only where a
            training question is the same.
    """

    train: int
    test: int
    exact: tuple[Match, ...]
    near: tuple[Match, ...]
    whole: int

    @property
    def neither(self) -> int:
        """Number of test questions that nothing in the training set is like."""
        return self.test - len(self.exact) - len(self.near)


def turns_of(task: Any, sample: Sample) -> list[str]:
    """Return what a sample asks turn by turn, without the template where the task tells it apart.

    Args:
        task: Which the sample belongs to.
        sample: Of either split.
    """
    if isinstance(task, ChatTask):
        turns = range(task.turns(sample))
        return [task.messages(sample, [""] * turn)[-1]["content"] for turn in turns]
    question = sample.data.get("question")
    return [question if isinstance(question, str) else sample.prompt]


def by_turn(name: str, turns: Sequence[str]) -> list[Question]:
    """Return a question for each turn; of several each has a name such as `81/turn-2`.

    Args:
        name: Of the whole, or of one of its turns, as in training sets of conversations.
        turns: What is asked.
    """
    if len(turns) == 1:
        return [Question(name, turns[0])]
    whole = conversation(name)
    return [Question(f"{whole}/turn-{turn}", text) for turn, text in enumerate(turns, 1)]


def words(text: str) -> list[str]:
    """Return the words of a text without regard to case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def grams(sequence: Sequence[str], size: int) -> frozenset[Gram]:
    """Return all runs of so many words; a shorter text is one run."""
    last = max(len(sequence) - size, 0)
    return frozenset(tuple(sequence[start : start + size]) for start in range(last + 1))


def find_overlap(
    train: Iterable[Question], test: Sequence[Question], *, ngram: int, threshold: float
) -> Overlap:
    """Compare every test question with every training question.

    Args:
        train: Read once; only those that match are kept.
        test: The questions to look for.
        ngram: Words to a run.
        threshold: Least share of a question's runs that makes a near-duplicate, above 0.
    """
    sought = [words(question.text) for question in test]
    runs = [grams(sequence, ngram) for sequence in sought]
    same: dict[Gram, list[int]] = defaultdict(list)
    for index, sequence in enumerate(sought):
        same[tuple(sequence)].append(index)
    rare = _rarest(runs, threshold)
    exact: dict[int, Match] = {}
    near: dict[int, Match] = {}
    count = 0
    for question in train:
        count += 1
        sequence = words(question.text)
        for index in same.get(tuple(sequence), ()):
            exact.setdefault(index, Match(test[index], question, 1.0))
        own = grams(sequence, ngram)
        for index in {index for gram in own & rare.keys() for index in rare[gram]}:
            share = len(own & runs[index]) / len(runs[index])
            if share >= threshold and (index not in near or share > near[index].similarity):
                near[index] = Match(test[index], question, share)
    others = [match for index, match in sorted(near.items()) if index not in exact]
    others.sort(key=lambda match: -match.similarity)
    found = tuple(match for _, match in sorted(exact.items()))
    whole = sum(len(sequence) < ngram for sequence in sought)
    return Overlap(count, len(test), found, tuple(others), whole)


def _rarest(runs: Sequence[frozenset[Gram]], threshold: float) -> Mapping[Gram, list[int]]:
    """Return, for some n-grams of each question, the questions that they stand in.

    A text that has `needed` of a question's n-grams lacks the others, and no more; so of any
    `len(others) + 1` of them it has one. The rarest are taken, which point to the fewest questions.
    """
    frequency = Counter(gram for question in runs for gram in question)
    found: dict[Gram, list[int]] = defaultdict(list)
    for index, question in enumerate(runs):
        needed = max(1, math.ceil(threshold * len(question) - 1e-9))
        ranked = sorted(question, key=lambda gram: (frequency[gram], gram))
        for gram in ranked[: len(question) - needed + 1]:
            found[gram].append(index)
    return found
