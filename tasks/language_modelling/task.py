"""The common parts of WikiText-2 and the Penn Treebank as tasks: a text and passages of it."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal, TypeVar

from cllm_bench.contracts import Sample, SampleSet, ScoredText, Source
from cllm_bench.errors import UserError

from .builtin.sample import TEST_ARTICLES, Manner, Passage, passages, text
from .dataset import Corpus, read_folder, read_hub

WINDOW = 2048
# The articles of the built-in text are short, and so is what small models learn of it.
BUILT_IN_WINDOW = 256
# Of a passage's prompt, and of what follows it: about 64 to 128 tokens each.
WORDS = 64
TEMPLATE = "passage-v1"
_MOST = 1_000_000  # of any setting
_WORD = re.compile(r"\S+")
_T = TypeVar("_T")
WHOLE_TEXT = (
    "--limit limits the passages that are continued, not the text whose perplexity is measured"
)
BUILT_IN = "the built-in text is generated: no sentence of it stands in the training text"


@dataclass(frozen=True, slots=True)
class TextSettings(ABC):
    """The settings of both tasks, and all that they do.

    Attributes:
        window: Tokens that the model sees at once; None is 2,048, and 256 for the built-in text.
        stride: From one window to the next; None is a window: they do not overlap.
        remainder: What becomes of the last tokens where they fill no window.
        passages: How many are continued, at regular places of the text.
        max_new_tokens: The limit of one continuation.
        train_passages: Size of the training split.
    """

    metric: ClassVar[str] = "perplexity"
    best_score: ClassVar[float] = 0.0
    folders: ClassVar[tuple[str, ...]] = ()
    corpus: ClassVar[Corpus]
    manner: ClassVar[Manner]

    window: int | None = None
    stride: int | None = None
    remainder: Literal["drop", "score"] = "drop"
    passages: int = 20
    max_new_tokens: int = 128
    train_passages: int = 20_000

    def __post_init__(self) -> None:
        for setting, least in (
            ("window", 2),
            ("stride", 1),
            ("passages", 1),
            ("max_new_tokens", 1),
            ("train_passages", 1),
        ):
            value = getattr(self, setting)
            if value is not None and not least <= value <= _MOST:
                raise UserError(
                    f"{self.corpus.name}: {setting} is {value}; give {least} to {_MOST:,}"
                )
        if self.remainder not in ("drop", "score"):
            raise UserError(
                f"{self.corpus.name}: remainder is {self.remainder}; give drop or score"
            )

    @property
    def stop(self) -> tuple[str, ...]:
        """Nothing but the model's end token ends a continuation."""
        return ()

    def samples(self, source: Source) -> SampleSet:
        """Load the passages.

        Raises:
            UserError: The source is not there, or is not this data set.
        """
        built_in = source.kind == "built-in"
        count = self.passages if source.split == "test" else self.train_passages
        if built_in:
            found = passages(self.manner, source.split, self._articles(source))
            chosen: Sequence[Passage] = _regular(found, count)
            notes: tuple[str, ...] = (BUILT_IN,)
        else:
            rows = self._rows(source)
            chosen = cut_passages(self.corpus, rows, source.split, count)
            words = sum(len(row.split()) for row in rows)
            notes = (
                f"the text has {len(rows):,} lines, and {words + len(rows):,} words where the end "
                "of each line counts as one",
            )
        samples = tuple(Sample(each.id, each.prompt, each.reference) for each in chosen)
        return SampleSet(
            samples=samples,
            label="built-in" if built_in else f"{self.corpus.name} {source.split}",
            template=TEMPLATE,
            fingerprint=_fingerprint(samples),
            notes=(*notes, WHOLE_TEXT),
        )

    def text(self, source: Source) -> ScoredText:
        """Load the text.

        Raises:
            UserError: The source is not there, or is not this data set; or a stride leaves gaps.
        """
        built_in = source.kind == "built-in"
        window = self.window or (BUILT_IN_WINDOW if built_in else WINDOW)
        stride = self.stride or window
        if stride > window:
            raise UserError(
                f"{self.corpus.name}: a stride of {stride} leaves out tokens between windows of "
                f"{window}; give at most {window}"
            )
        if built_in:
            content = text(self.manner, source.split, self._articles(source))
        else:
            content = self.corpus.between.join(self._rows(source))
        return ScoredText(content, window, stride, self.remainder)

    def score(self, sample: Sample, replies: Sequence[str]) -> float | None:
        """Grade nothing: the score is the perplexity of the text."""
        return None

    def _articles(self, source: Source) -> int:
        return TEST_ARTICLES if source.split == "test" else self.train_passages

    def _rows(self, source: Source) -> tuple[str, ...]:
        if source.kind == "folder":
            return read_folder(self.corpus, source)
        return read_hub(self.corpus, self._from_hub(source.split))

    @abstractmethod
    def _from_hub(self, split: str) -> Callable[[], Any]:
        """Return what loads a split from the Hub."""


def cut_passages(
    corpus: Corpus, rows: Sequence[str], split: str, count: int
) -> tuple[Passage, ...]:
    """Return passages that begin with a row, at regular places of the text.

    Raises:
        UserError: The text is shorter than a passage.
    """
    content = corpus.between.join(rows)
    words = list(_WORD.finditer(content))
    starts, ends = [word.start() for word in words], [word.end() for word in words]
    # The place of each row in the text; the last accumulated is where a further one would begin.
    places = accumulate((len(row) + len(corpus.between) for row in rows), initial=0)
    firsts = [
        bisect_left(starts, place)
        for place, row in zip(places, rows, strict=False)
        if row.strip() and not row.strip().startswith("= ")  # no heading
    ]
    firsts = [first for first in firsts if first + 2 * WORDS <= len(words)]
    if not firsts:
        raise UserError(
            f"{corpus.name} {split}: the text has {len(words)} words, and a passage takes "
            f"{2 * WORDS}; fetch it again, or give the whole of it"
        )
    return tuple(
        Passage(
            f"{split}-{index:05d}",
            content[starts[first] : ends[first + WORDS - 1]],
            content[ends[first + WORDS - 1] : ends[first + 2 * WORDS - 1]],
        )
        for index, first in enumerate(_regular(firsts, count))
    )


def _regular(items: Sequence[_T], count: int) -> list[_T]:
    """Return so many of the items, at regular places; all where they are fewer."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _fingerprint(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(TEMPLATE.encode())
    for sample in samples:
        digest.update(json.dumps((sample.id, sample.prompt, sample.reference)).encode())
    return digest.hexdigest()
