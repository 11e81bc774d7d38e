"""A plugin with the task `telling`, whose text is scored."""

from __future__ import annotations

TASK = '''
from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Sample, SampleSet, ScoredText

TEXT = " ".join(["three four", "one two\\n", "seven", "eight six five two"][i * i % 7 % 4]
                for i in range(180))

@dataclass(frozen=True)
class Telling:
    """A text without sense."""

    metric: ClassVar[str] = "perplexity"
    best_score: ClassVar[float] = 0.0
    folders: ClassVar[tuple[str, ...]] = ("telling",)

    window: int = 64
    stride: int | None = None
    remainder: str = "drop"
    max_new_tokens: int = 6

    @property
    def stop(self):
        return ()

    def samples(self, source):
        found = [Sample(str(i), TEXT[: 20 + i], "") for i in range(3)]
        return SampleSet(tuple(found), source.kind, "plain-v1", "f" * 64)

    def text(self, source):
        stride = self.window if self.stride is None else self.stride
        return ScoredText(TEXT, self.window, stride, self.remainder)

    def score(self, sample, replies):
        return None
'''
