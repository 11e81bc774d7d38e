"""Spider's execution accuracy as an `evaluate.Metric`, for use without the harness.

A module of its own, because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate

from .grading import Grading, execution_match
from .sql_match import sql_in_reply

_DESCRIPTION = (
    "The fraction of predicted SQL queries that return what the reference query returns, by the "
    "rules of the official test-suite evaluator, on the one database that each reference names."
)
_INPUTS = """
Args:
    predictions: SQL queries; code fences are removed.
    references: For each, a dictionary of `database`, the path of an SQLite file, and `sql`.
    seconds: Wall-clock limit of one query.
    row_limit: The largest result; a prediction with a larger one is wrong.
    keep_distinct: Leave DISTINCT in both queries; the official default removes it.
Returns:
    execution_accuracy: between 0 and 1.
"""
_CITATION = """@inproceedings{zhong2020semantic,
  title={Semantic Evaluation for Text-to-SQL with Distilled Test Suites},
  author={Zhong, Ruiqi and Yu, Tao and Klein, Dan}, booktitle={EMNLP}, year={2020}}"""


class ExecutionAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The fraction of queries that return what their references return."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": text, "references": {"database": text, "sql": text}}
            ),
            reference_urls=["https://github.com/taoyds/test-suite-sql-eval"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Mapping[str, Any]],
        **settings: Any,
    ) -> dict[str, float]:
        grading = Grading(**settings)
        right = [
            execution_match(
                Path(reference["database"]), reference["sql"], sql_in_reply(prediction), grading
            )
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"execution_accuracy": sum(right) / len(right)}
