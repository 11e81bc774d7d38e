"""Protocol of a model that grades replies, and the rating that it writes.

Single-answer grading as in MT-bench (Zheng et al., NeurIPS 2023): the judge reads a question and a
reply and writes a rating.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from cllm_bench.contracts import JudgePrompt

LOWEST = 1.0  # lowest rating; the highest is the task's best score
# Judge prompts ask for the first form; FastChat's llm_judge also accepts the second.
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, slots=True)
class Opinion:
    """An answer of a judge.

    Attributes:
        text: Full text of the answer.
        requests: Number of requests until the answer came.
        prompt_tokens: Tokens of the prompt as the judge counts them; None if it does not.
        completion_tokens: Tokens of the answer, likewise.
    """

    text: str
    requests: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class NoOpinion(Exception):  # noqa: N818 - an outcome, which is stored
    """A judge gave no text for a prompt.

    Attributes:
        requests: Number of requests that were sent.
        own: Whether the cause lies in this prompt alone, such as its length, so that other prompts
            may well succeed.
    """

    def __init__(self, reason: str, requests: int = 1, *, own: bool = False) -> None:
        super().__init__(reason)
        self.requests = requests
        self.own = own


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A judge was stopped while it waited to repeat a request."""


class Judge(Protocol):
    """A model that grades.

    Attributes:
        name: Name shown in tables; several judges may share it.
        identity: Distinguishes judges of one name, such as a hash of the weights or a URL. It is
            stored and shown, so it must not contain a secret.
        parallel: Number of prompts that may be asked simultaneously.
    """

    @property
    def name(self) -> str:
        """Name shown in tables."""
        ...

    @property
    def identity(self) -> str:
        """Hash or URL that distinguishes judges of one name."""
        ...

    @property
    def parallel(self) -> int:
        """Number of prompts that may be asked simultaneously."""
        ...

    def ask(self, prompt: JudgePrompt) -> Opinion:
        """Return the judge's answer to a prompt; called from several threads if `parallel` > 1.

        Raises:
            NoOpinion: The judge did not answer this time.
            Stopped: `stop` was called while the judge waited.
            UserError: The judge will never answer, so asking again is useless.
        """
        ...

    def stop(self) -> None:
        """Make every `ask` that is waiting to repeat a request give up; called from any thread."""
        ...


def rating(text: str, best: float) -> float | None:
    """Return the first rating in a judge's answer; None if it is missing or out of range.

    Args:
        text: Answer of the judge.
        best: Highest valid rating.
    """
    for pattern in _RATINGS:
        if (found := pattern.search(text)) is not None:
            value = float(found[1])
            return value if LOWEST <= value <= best else None
    return None
