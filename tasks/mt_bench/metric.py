"""The mean of a judge's ratings as an `evaluate.Metric`, for use without the harness.

A module of its own, because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from cllm_bench.judge.protocol import rating

_DESCRIPTION = "The mean of the ratings, from 1 to 10, that a judge wrote as '[[rating]]'."
_INPUTS = """
Args:
    predictions: What the judge wrote, one text for each reply.
Returns:
    rating: the mean over the texts that hold one, None where none does; failed: the others.
"""
_CITATION = """@inproceedings{zheng2023judging,
  title={Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena},
  author={Zheng, Lianmin and others},
  booktitle={NeurIPS Datasets and Benchmarks}, year={2023}}"""


class JudgeRating(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The mean of the ratings that a judge wrote."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
            reference_urls=["https://github.com/lm-sys/FastChat/tree/main/fastchat/llm_judge"],
        )

    def _compute(self, predictions: Sequence[str]) -> dict[str, float | int | None]:
        found = [rating(text, 10.0) for text in predictions]
        values = [value for value in found if value is not None]
        mean = sum(values) / len(values) if values else None
        return {"rating": mean, "failed": len(found) - len(values)}
