"""HumanEval: functions to be written from their docstrings, graded by running them.

(Chen et al., 2021.) The score is pass@1 of one reply, or pass@k of several; `humaneval_metric` has
both for use without the harness. Programs have Python's standard library and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from cllm_bench.contracts import Sample, SampleSet, Source
from cllm_bench.errors import UserError, did_you_mean

from .dataset import Problem, read_folder, read_package
from .extraction import COMPLETION_STOPS, INSTRUCTION_STOPS
from .grading import passes

_GRADING_VERSION = 1  # raise it with any change that can change a grade
_MOST = 1_000_000  # of any setting
STYLES = ("completion", "instruct")
SHARED_PARTS = (
    "the built-in functions are generated: those of the test are put together in ways that no "
    "training function is, but from the same parts"
)


@dataclass(frozen=True, slots=True)
class HumanEval:
    """Functions written from their docstrings, graded by running their tests.

    Attributes:
        style: `completion`: the model goes on behind the docstring, as HumanEval means it;
            `instruct`: it is asked for the whole function.
        timeout: Limit of one program, in seconds of processor time.
        max_new_tokens: The limit of one reply.
        train_questions: Size of the built-in training split.
        draws: Replies to each problem (n in the paper), sampled with different seeds.
        k: Of pass@k, estimated without bias from them.
    """

    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ("human_eval", "humaneval", "human-eval")
    runs_code: ClassVar[bool] = True

    style: Literal["completion", "instruct"] = "completion"
    timeout: float = 3.0
    max_new_tokens: int = 512
    train_questions: int = 60_000
    draws: int = 1
    k: int = 1

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(
                f"humaneval has no style '{self.style}'; {did_you_mean(self.style, STYLES)}"
            )
        for name in ("timeout", "max_new_tokens", "train_questions", "draws", "k"):
            value = getattr(self, name)
            if not 0 < value <= _MOST:
                raise UserError(
                    f"humaneval: {name} is {value}; give more than 0, at most {_MOST:,}"
                )
        if self.k > self.draws:
            raise UserError(f"humaneval: k={self.k} needs as many draws; give draws={self.k}")

    @property
    def metric(self) -> str:
        """What the score is."""
        return f"pass@{self.k}"

    @property
    def best_of(self) -> int:
        """Draws of which one must pass."""
        return self.k

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings behind which the function has ended, or the next question begins."""
        return COMPLETION_STOPS if self.style == "completion" else INSTRUCTION_STOPS

    def samples(self, source: Source) -> SampleSet:
        """Load the problems.

        Raises:
            UserError: The source is not there, or is not HumanEval.
        """
        built_in = source.kind == "built-in"
        samples = [self._sample(problem) for problem in self._problems(source)]
        return SampleSet(
            samples=tuple(samples),
            label="built-in" if built_in else "HumanEval",
            template=f"{self.style}-v1",
            fingerprint=self._fingerprint(samples),
            notes=(SHARED_PARTS,) if built_in else (),
        )

    def score(self, sample: Sample, replies: Sequence[str]) -> float:
        """Return 1 where the function that the reply makes passes its tests, else 0.

        Raises:
            UserError: Isolation is less than full, and nobody has allowed that.
        """
        (reply,) = replies
        data = sample.data
        return float(passes(data["prompt"], data["entry"], data["tests"], reply, self.timeout))

    def _problems(self, source: Source) -> Sequence[Problem]:
        if source.kind == "built-in":
            from .builtin.sample import TEST_PROBLEMS, problems

            count = TEST_PROBLEMS if source.split == "test" else self.train_questions
            return problems(source.split, count)
        if source.split == "train":
            raise UserError(
                "HumanEval has no training problems; train on the built-in ones "
                "(--data humaneval=built-in)"
            )
        return read_folder(source.path) if source.kind == "folder" else read_package()

    def _sample(self, problem: Problem) -> Sample:
        prompt, reference = problem.prompt, problem.solution
        if self.style == "instruct":
            reference = f"```python\n{prompt}{reference.rstrip()}\n```"
            prompt = instruction(prompt)
        return Sample(
            id=problem.id,
            prompt=prompt,
            reference=reference,
            data={
                "question": problem.question,
                "prompt": problem.prompt,
                "entry": problem.entry,
                "tests": problem.tests,
            },
        )

    def _fingerprint(self, samples: Sequence[Sample]) -> str:
        digest = hashlib.sha256(json.dumps([_GRADING_VERSION, self.timeout]).encode())
        for sample in samples:
            parts = (sample.id, sample.prompt, sample.reference, sample.data["tests"])
            digest.update(json.dumps(parts).encode())
        return digest.hexdigest()


def instruction(prompt: str) -> str:
    """Return the prompt of `instruct-v1`: the wrapper of the CLLM paper's other code tasks."""
    return (
        "### Instruction:\n"
        "Complete this Python function. Answer with the whole function in a code block.\n"
        f"```python\n{prompt.rstrip()}\n```\n### Response:\n"
    )
