"""WikiText-2: perplexity on articles of Wikipedia (Merity et al., 2016), and their continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .builtin.sample import Manner
from .dataset import Corpus
from .task import TextSettings

HUB, CONFIG = "Salesforce/wikitext", "wikitext-2-raw-v1"
WORD_LEVEL = "the word-level version of WikiText-2, with <unk> for rare words,"


def _row(line: str) -> str:
    """Return a line as the Hub's data set has it: with its end, and nothing of a blank one."""
    return line if line.strip() else ""


@dataclass(frozen=True, slots=True)
class Wikitext2(TextSettings):
    """Perplexity on WikiText-2, raw, its lines joined by blank ones; and speed on its passages.

    Attributes:
        window: Tokens that the model sees at once; None is 2,048, and 256 for the built-in text.
        stride: From one window to the next; None is a window: they do not overlap.
        remainder: What becomes of the last tokens where they fill no window.
        passages: How many are continued, at regular places of the text.
        max_new_tokens: The limit of one continuation.
        train_passages: Size of the training split.
    """

    folders: ClassVar[tuple[str, ...]] = (
        "wikitext-2-raw",
        "wikitext-2-raw-v1",
        "wikitext2",
        "wikitext",
    )
    manner: ClassVar[Manner] = "wiki"
    corpus: ClassVar[Corpus] = Corpus(
        name="WikiText-2 raw",
        file="wiki.{split}.raw",
        parquet=(f"{CONFIG}/{{split}}-*.parquet", "{split}-*.parquet"),
        column="text",
        line=_row,
        between="\n\n",
        others=(("wiki.{split}.tokens", WORD_LEVEL), ("{split}.txt", WORD_LEVEL)),
        remedy=(
            "give --data the folder of wikitext-2-raw-v1 that holds wiki.test.raw, or a clone of "
            f"https://huggingface.co/datasets/{HUB}"
        ),
    )

    def _from_hub(self, split: str) -> Callable[[], Any]:
        from datasets import load_dataset

        return lambda: load_dataset(HUB, CONFIG, split=split)
