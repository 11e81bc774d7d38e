"""GSM8K's accuracy as an `evaluate.Metric`, for use without the harness.

A module of its own, because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from .extraction import flexible_number, strict_number

_DESCRIPTION = (
    "The fraction of solutions whose final number is the reference's: strictly, the number after "
    "'####', and flexibly, the last number."
)
_INPUTS = """
Args:
    predictions: Worked solutions, without the next question that a model may go on with.
    references: Answers in GSM8K's own form, which end in '#### NUMBER'.
Returns:
    accuracy_strict and accuracy_flexible: between 0 and 1.
"""
_CITATION = """@article{cobbe2021training,
  title={Training Verifiers to Solve Math Word Problems}, author={Cobbe, Karl and others},
  journal={arXiv:2110.14168}, year={2021}}"""


class WorkedAnswerAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The fraction of solutions that end in the reference's number."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/openai/grade-school-math"],
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        expected = [strict_number(reference) for reference in references]
        if None in expected:
            raise ValueError(f"no '#### NUMBER' in reference {expected.index(None)}")
        pairs = list(zip(predictions, expected, strict=True))
        return {
            f"accuracy_{name}": sum(extract(text) == value for text, value in pairs) / len(pairs)
            for name, extract in (("strict", strict_number), ("flexible", flexible_number))
        }
