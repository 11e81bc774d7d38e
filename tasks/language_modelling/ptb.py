"""The Penn Treebank as Mikolov et al. (2010) prepared it: perplexity, and its continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .builtin.sample import Manner
from .dataset import Corpus
from .task import TextSettings

# The repository itself holds a loading script, which `datasets` no longer runs.
HUB = "ptb-text-only/ptb_text_only"
PARQUET = f"hf://datasets/{HUB}@refs%2Fconvert%2Fparquet/penn_treebank/{{split}}/0000.parquet"


@dataclass(frozen=True, slots=True)
class PennTreebank(TextSettings):
    """Perplexity on the Penn Treebank, its sentences joined by spaces; and speed on its passages.

    Attributes:
        window: Tokens that the model sees at once; None is 2,048, and 256 for the built-in text.
        stride: From one window to the next; None is a window: they do not overlap.
        remainder: What becomes of the last tokens where they fill no window.
        passages: How many are continued, at regular places of the text.
        max_new_tokens: The limit of one continuation.
        train_passages: Size of the training split.
    """

    folders: ClassVar[tuple[str, ...]] = ("ptb", "ptb_text_only", "penn_treebank")
    manner: ClassVar[Manner] = "news"
    corpus: ClassVar[Corpus] = Corpus(
        name="PTB",
        file="ptb.{split}.txt",
        parquet=("penn_treebank/{split}/*.parquet", "{split}/*.parquet"),
        column="sentence",
        line=str.strip,
        between=" ",
        others=(),
        remedy="give --data the folder that holds ptb.test.txt, in Mikolov's preparation",
    )

    def _from_hub(self, split: str) -> Callable[[], Any]:
        from datasets import load_dataset

        files = {split: PARQUET.format(split=split)}
        return lambda: load_dataset("parquet", data_files=files, split=split)
