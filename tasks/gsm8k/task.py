"""GSM8K: word problems answered in worked steps, graded by the result (Cobbe et al., 2021)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from cllm_bench.contracts import Sample, SampleSet, Source, Split
from cllm_bench.errors import UserError, did_you_mean

from .dataset import ProblemText, read_folder, read_hub
from .extraction import EXTRACTIONS, strict_number

_GRADING_VERSION = 1  # raise it with any change that can change a grade
_MOST = 1_000_000  # of any setting
SHARED_STORIES = (
    "the built-in problems are generated: those of the training tell the same stories with other "
    "numbers"
)


def compact_prompt(question: str) -> str:
    """Return the prompt of `compact-v1`, which small models learn."""
    return f"question: {question}\nanswer:"


def paper_prompt(question: str) -> str:
    """Return the prompt of `paper-v1`: the one of the CLLM paper, without examples."""
    return f"Question:\n{question}\nAnswer:\nLet's think step by step.\n"


class Template(NamedTuple):
    """A way to write a prompt.

    Attributes:
        prompt: Writes it.
        lead: What comes between prompt and answer. A space belongs to the answer, because
            byte-level vocabularies hold words with the space before them.
    """

    prompt: Callable[[str], str]
    lead: str


TEMPLATES = {"compact-v1": Template(compact_prompt, " "), "paper-v1": Template(paper_prompt, "")}


@dataclass(frozen=True, slots=True)
class Gsm8k:
    """Word problems, graded by the number that ends the answer.

    Attributes:
        template: `compact-v1`, `paper-v1`, or `auto`: the first for the built-in sample, the second
            for GSM8K itself.
        extraction: `strict` takes the number after `####`, `flexible` the last number.
        max_new_tokens: The limit of one reply.
        train_questions: Size of the built-in training split.
    """

    metric: ClassVar[str] = "accuracy"
    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ("gsm8k",)

    template: str = "auto"
    extraction: Literal["strict", "flexible"] = "strict"
    max_new_tokens: int = 256
    train_questions: int = 60_000

    def __post_init__(self) -> None:
        for setting, known in (("template", ("auto", *TEMPLATES)), ("extraction", EXTRACTIONS)):
            value = getattr(self, setting)
            if value not in known:
                raise UserError(f"gsm8k has no {setting} '{value}'; {did_you_mean(value, known)}")
        for setting in ("max_new_tokens", "train_questions"):
            value = getattr(self, setting)
            if not 0 < value <= _MOST:
                raise UserError(f"gsm8k: {setting} is {value}; give more than 0, at most {_MOST:,}")

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which a reply is cut: a model that goes on goes on with the next question."""
        return ("\nQuestion:", "\nquestion:")

    def samples(self, source: Source) -> SampleSet:
        """Load the problems.

        Raises:
            UserError: The source is not there, or is not GSM8K.
        """
        built_in = source.kind == "built-in"
        name = self.template
        if name == "auto":
            name = "compact-v1" if built_in else "paper-v1"
        samples = [_sample(problem, TEMPLATES[name]) for problem in self._problems(source)]
        return SampleSet(
            samples=tuple(samples),
            label="built-in" if built_in else f"GSM8K {source.split}",
            template=name,
            fingerprint=self._fingerprint(samples),
            notes=(SHARED_STORIES,) if built_in else (),
        )

    def score(self, sample: Sample, replies: Sequence[str]) -> float:
        """Return 1 where the reply's number is the reference's, else 0."""
        (reply,) = replies
        found = EXTRACTIONS[self.extraction](reply)
        return float(found is not None and found == strict_number(sample.reference))

    def _problems(self, source: Source) -> Sequence[ProblemText]:
        if source.kind == "folder":
            return read_folder(source.path, source.split)
        if source.kind == "hub":
            return read_hub(source.split)
        return _built_in(source.split, self.train_questions)

    def _fingerprint(self, samples: Sequence[Sample]) -> str:
        digest = hashlib.sha256(json.dumps([_GRADING_VERSION, self.extraction]).encode())
        for sample in samples:
            digest.update(json.dumps((sample.id, sample.prompt, sample.reference)).encode())
        return digest.hexdigest()


def _sample(problem: ProblemText, template: Template) -> Sample:
    return Sample(
        id=problem.id,
        prompt=template.prompt(problem.question),
        reference=template.lead + problem.answer,
        data={"question": problem.question},
    )


def _built_in(split: Split, train_questions: int) -> list[ProblemText]:
    from .builtin.sample import TEST_PROBLEMS, problems

    count = TEST_PROBLEMS if split == "test" else train_questions
    return [ProblemText(each.id, each.question, each.answer) for each in problems(split, count)]
