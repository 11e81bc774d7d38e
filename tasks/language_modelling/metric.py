"""Perplexity as an `evaluate.Metric`, for use without the harness.

A module of its own, because importing `evaluate` takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import evaluate

from cllm_bench.decoding.perplexity import token_perplexity, word_perplexity

_DESCRIPTION = (
    "e to the mean negative log-likelihood of a text's tokens; and the same for its words, which "
    "compares models of different vocabularies."
)
_INPUTS = """
Args:
    predictions: For each stretch of the text the negative log-likelihood, in nats, of its tokens.
    references: For each the numbers of `tokens` scored and of `words`, separated by white space.
Returns:
    token_perplexity and word_perplexity: at least 1; None where a float cannot hold it.
"""
_CITATION = """@article{merity2016pointer,
  title={Pointer Sentinel Mixture Models}, author={Merity, Stephen and others},
  journal={arXiv:1609.07843}, year={2016}}"""


class TextPerplexity(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What a token and a word of a text cost on average."""

    def _info(self) -> evaluate.MetricInfo:
        count = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": {"tokens": count, "words": count},
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[float], references: Sequence[Mapping[str, int]]
    ) -> dict[str, float | None]:
        nll = sum(predictions)
        tokens = sum(reference["tokens"] for reference in references)
        words = sum(reference["words"] for reference in references)
        return {
            "token_perplexity": token_perplexity(nll, tokens),
            "word_perplexity": word_perplexity(nll, tokens, tokens / words),
        }
