"""The project's own texts: generated articles in the form of WikiText, and of the Penn Treebank.

They have the look of the two data sets and none of their text. A model learns them from passages:
an article behind the last sentence of the one before it, so that it also learns how one follows
another, with a prompt that ends within it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal, NamedTuple

from cllm_bench.contracts import Split

from .grammar import Article, Topic, write
from .news import NEWS
from .wiki import WIKI

Manner = Literal["wiki", "news"]
TEST_ARTICLES = 200
# Where a prompt ends within its article, as a share of the words.
_LEAST, _MOST = 0.3, 0.6
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of the text in two parts.

    Attributes:
        id: Unique and stable within its split.
        prompt: The last sentence of the article before, and the beginning of this one.
        reference: The rest of the article, from the white space before it.
    """

    id: str
    prompt: str
    reference: str


class _Style(NamedTuple):
    topics: Sequence[Topic]
    finish: Callable[[str], str]
    lay_out: Callable[[Article], str]
    between: str  # two articles


def _encyclopaedic(sentence: str) -> str:
    """Begin with a capital, and set punctuation off as WikiText does: `3 @,@ 400`, ` , `."""
    text = re.sub(r"\ba(?= [aeiou])", "an", sentence)
    text = re.sub(r"(?<=\d),(?=\d)", " @,@ ", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    text = re.sub(r"(?<=\w)(?=('s|[.,])( |$))", " ", text)
    return text[0].upper() + text[1:]


def _pages(article: Article) -> str:
    lines = [f"= {_encyclopaedic(article.title)} ="]
    for heading, sentences in article.parts:
        lines += [f"= = {heading} = ="] if heading else []
        lines.append(" ".join(sentences))
    return "\n\n".join(lines)


def _reported(sentence: str) -> str:
    return re.sub(r"\ba(?= [aeiou])", "an", sentence)


def _column(article: Article) -> str:
    return " ".join(sentence for _, sentences in article.parts for sentence in sentences)


_STYLES: Mapping[Manner, _Style] = {
    "wiki": _Style(WIKI, _encyclopaedic, _pages, "\n\n"),
    "news": _Style(NEWS, _reported, _column, " "),
}


@cache
def articles(manner: Manner, split: Split, count: int) -> tuple[Article, ...]:
    """Return the first articles of a split. A shorter text is the beginning of a longer one.

    No article comes twice, and no sentence of the test stands in the training text.
    """
    style = _STYLES[manner]
    rng = Random(f"{manner} articles for {split}")
    found: dict[Article, None] = {}
    while len(found) < count:
        found.setdefault(write(rng.choice(style.topics), rng, split, style.finish))
    return tuple(found)


def text(manner: Manner, split: Split, count: int) -> str:
    """Return so many articles as one text."""
    style = _STYLES[manner]
    return style.between.join(map(style.lay_out, articles(manner, split, count)))


def passages(manner: Manner, split: Split, count: int) -> tuple[Passage, ...]:
    """Return a passage for each of the first articles of a split."""
    style = _STYLES[manner]
    rng = Random(f"{manner} passages for {split}")
    found, before = [], ""
    for index, article in enumerate(articles(manner, split, count)):
        whole = style.lay_out(article)
        ends = [match.end() for match in _WORD.finditer(whole)]
        cut = ends[int(rng.uniform(_LEAST, _MOST) * len(ends))]
        found.append(Passage(f"{split}-{index:05d}", before + whole[:cut], whole[cut:]))
        before = article.parts[-1][1][-1] + style.between
    return tuple(found)
