"""HumanEval's pass@k as an `evaluate.Metric`, for use without the harness.

A module of its own, because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import evaluate

from .grading import pass_at_k, passes

_DESCRIPTION = (
    "The chance that one of k replies to a problem is a function that passes the problem's tests, "
    "estimated without bias from all replies; programs run in a sandbox."
)
_INPUTS = """
Args:
    predictions: For each problem a list of replies: completions of the prompt, or answers with the
        whole function in them.
    references: For each problem a dictionary of `prompt`, `entry_point` and `test`, as in
        HumanEval's files.
    k: The numbers of replies to estimate for; each at most the number of replies to a problem.
    timeout: Seconds of processor time of one program.
Returns:
    pass@k for each k: between 0 and 1.
"""
_CITATION = """@article{chen2021codex,
  title={Evaluating Large Language Models Trained on Code}, author={Chen, Mark and others},
  journal={arXiv:2107.03374}, year={2021}}"""


class FunctionalCorrectness(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The chance that one of k replies passes the tests."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(text),
                    "references": {"prompt": text, "entry_point": text, "test": text},
                }
            ),
            reference_urls=["https://github.com/openai/human-eval"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Mapping[str, str]],
        k: Sequence[int] = (1,),
        timeout: float = 3.0,
    ) -> dict[str, float]:
        counts = [
            (
                len(replies),
                sum(
                    passes(each["prompt"], each["entry_point"], each["test"], reply, timeout)
                    for reply in replies
                ),
            )
            for replies, each in zip(predictions, references, strict=True)
        ]
        return {
            f"pass@{number}": sum(pass_at_k(*count, number) for count in counts) / len(counts)
            for number in k
        }
