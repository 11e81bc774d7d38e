"""Strings that end a reply, found while it is decoded, at hardly any cost to the timed path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a token decodes to that holds a part of a character


class StopStrings:
    """Tells whether the newest token of a reply completes one of the strings.

    Decoding text after every token would cost a small model a good part of its pass, and one token
    a pass more of them than many. So the ids that can complete a string at all are found once, and
    only behind these the end of the reply is decoded.

    Attributes:
        strings: Those that end a reply.
    """

    def __init__(self, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
        self.strings = tuple(strings)
        self._tokenizer = tokenizer
        self._window = max((len(text.encode()) for text in strings), default=0) + 1
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self._completing = frozenset(
            token for token, text in enumerate(texts) if _may_complete(text, self.strings)
        )

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Say whether the reply ends with its newest token."""
        if token_ids[-1] not in self._completing:
            return False
        end = str(
            self._tokenizer.decode(list(token_ids[-self._window :]), skip_special_tokens=True)
        )
        return any(text in end for text in self.strings)


def ends_of(strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> StopStrings | None:
    """Return what tells that a reply ends by its text; None where no text ends one."""
    return StopStrings(strings, tokenizer) if strings else None


def _may_complete(text: str, strings: Sequence[str]) -> bool:
    """Say whether a token with this text could complete a string; yes in doubt.

    Tokenizers may drop the space with which a token begins when it is decoded alone.
    """
    if UNFINISHED in text:
        return True
    return any(
        string in form or any(form.startswith(string[start:]) for start in range(len(string)))
        for string in strings
        for form in (text, f" {text}")
    )


def cut(text: str, strings: Sequence[str]) -> str:
    """Return a reply up to the first of the strings."""
    return text[: min((index for stop in strings if (index := text.find(stop)) >= 0), default=None)]
