"""What a task is that another model grades, and what that model's verdicts mean.

Single-answer grading as in MT-bench (Zheng et al., NeurIPS 2023): the judge reads a question and a
reply and writes a rating.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from cllm_bench.contracts import JudgePrompt

LOWEST = 1.0  # of a rating; the highest is the task's best score
# The harness asks for the first; the second is what FastChat's llm_judge accepts in its place.
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge wrote.

    Attributes:
        text: The whole of it.
        requests: How often it was asked until it answered.
        prompt_tokens: Counted by the judge, if it counts.
        completion_tokens: The same for what it wrote.
    """

    text: str
    requests: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class NoOpinion(Exception):  # noqa: N818 - an outcome, which is stored
    """A judge that was asked and gave no text.

    Attributes:
        requests: How often it was asked.
        own: Whether it lies in this prompt and says nothing of others, as when it is too long.
    """

    def __init__(self, reason: str, requests: int = 1, *, own: bool = False) -> None:
        super().__init__(reason)
        self.requests = requests
        self.own = own


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A judge that was told to stop while it waited for an answer."""


class Judge(Protocol):
    """A model that grades.

    Attributes:
        name: As tables show it; several judges may have the same.
        identity: What tells it from others of its name, such as a hash of its weights or an
            address; it is stored and shown, and holds no secret.
        parallel: How many prompts it may be asked at once.
    """

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def identity(self) -> str:
        """The identity."""
        ...

    @property
    def parallel(self) -> int:
        """The number."""
        ...

    def ask(self, prompt: JudgePrompt) -> Opinion:
        """Ask it; called by several threads at once where `parallel` is above 1.

        Raises:
            NoOpinion: It did not answer this time.
            Stopped: It was told to stop.
            UserError: It will never answer: there is no use in asking again.
        """
        ...

    def stop(self) -> None:
        """Let every `ask` that waits for a better time give up; called from another thread."""
        ...


def rating(text: str, best: float) -> float | None:
    """Return the rating that a judge wrote; None where there is none, or one out of range.

    Of several the first counts.

    Args:
        text: What the judge wrote.
        best: The highest rating.
    """
    for pattern in _RATINGS:
        if (found := pattern.search(text)) is not None:
            value = float(found[1])
            return value if LOWEST <= value <= best else None
    return None
