"""Measures perplexities: the texts of a run as its family reads them, window by window."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.contracts import Listen, ScoredText
from cllm_bench.decoding.perplexity import Window, windows
from cllm_bench.errors import UserError
from cllm_bench.measurement.plan import RunPlan, TaskPlan
from cllm_bench.results.perplexity import Perplexity, Stretch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_CHUNK = 2**24  # logits in single precision held at once


class Wanted(NamedTuple):
    """A text and a checkpoint, not measured yet."""

    plan: TaskPlan
    text: ScoredText
    role: str
    key: str


class Texts:
    """The texts of a run, in tokens.

    Raises:
        UserError: A text has no window, or a model no room for one.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._family = plan.family
        self._wanted: list[Wanted] = []
        self._ids: dict[str, Tensor] = {}
        roles = dict.fromkeys(spec.checkpoint for spec in plan.specs)
        for each in plan.tasks:
            if each.text is not None:
                for role in roles:
                    self._refuse_window(each.label, each.text.window, role)
                    key = plan.text_key(each, role)
                    self._wanted.append(Wanted(each, each.text, role, key))
                self._ids[each.label] = self._read(each.label, each.text)

    def missing(self, done: Mapping[str, Perplexity]) -> Iterator[Wanted]:
        """Yield what is not among those stored, by key."""
        return (wanted for wanted in self._wanted if wanted.key not in done)

    def measure(self, wanted: Wanted, attempt: int, listen: Listen) -> Perplexity:
        """Measure one text with one checkpoint's weights.

        Raises:
            UserError: The device has no memory for it, or the model gives no probabilities.
        """
        label, text = wanted.plan.label, wanted.text
        ids, model = self._ids[label], self._family.model(wanted.role)
        planned = list(windows(text, len(ids)))
        parts: dict[int, Stretch] = {}
        start = time.perf_counter()
        for done, window in enumerate(planned):
            listen(f"{label}: perplexity of '{wanted.role}'", done, len(planned))
            place = window.begin // text.window
            tokens, nll = parts.get(place, Stretch(0, 0.0))
            nll += self._scored(wanted, model, ids, window)
            parts[place] = Stretch(tokens + window.end - window.first, nll)
        total = sum(part.nll for part in parts.values())
        if not math.isfinite(total):
            raise _failed(wanted, "the model gives no finite probabilities; try another --dtype")
        return Perplexity(
            key=wanted.key,
            task=label,
            checkpoint=wanted.role,
            attempt=attempt,
            window=text.window,
            stride=text.stride,
            remainder=text.remainder,
            windows=len(planned),
            text_tokens=len(ids),
            words=len(text.content.split()),
            tokens=sum(part.tokens for part in parts.values()),
            nll=total,
            parts=tuple(parts.values()),
            seconds=time.perf_counter() - start,
        )

    def _scored(self, wanted: Wanted, model: PreTrainedModel, ids: Tensor, window: Window) -> float:
        import torch

        try:
            return negative_log_likelihood(model, ids, window)
        except torch.OutOfMemoryError as error:
            reason = " ".join(str(error).split())[:120]
            raise _failed(wanted, f"{reason}; give a smaller window") from None

    def _read(self, label: str, text: ScoredText) -> Tensor:
        import torch

        if not 1 <= text.stride <= text.window or text.window < 2:
            raise UserError(
                f"{label}: a stride of {text.stride} and windows of {text.window} tokens; give a "
                "window of at least 2, and a stride of at least 1 and at most a window"
            )
        ids = self._family.tokenizer(text.content).input_ids
        if next(windows(text, len(ids)), None) is None:
            raise UserError(
                f"{label}: the text has {len(ids)} tokens, which fill no window of {text.window}; "
                "give it a smaller window, or remainder=score"
            )
        if not text.content.split():
            raise UserError(f"{label}: the text has no words")
        return torch.tensor(ids, device=self._family.runtime.device)

    def _refuse_window(self, label: str, window: int, role: str) -> None:
        from cllm_bench.engine.loading import load_config

        config = load_config(self._family.checkpoint(role)).get_text_config()
        known = getattr(config, "max_position_embeddings", None)
        if known is not None and window > known:
            name = label.partition(":")[0]
            raise UserError(
                f"{label}: a window of {window} tokens, and '{role}' has {known} positions; give "
                f"a window that all checkpoints of the run have room for: {name}:window={known}"
            )


def _failed(wanted: Wanted, reason: str) -> UserError:
    return UserError(
        f"{wanted.plan.label}: the perplexity of '{wanted.role}' cannot be measured: {reason}"
    )


def negative_log_likelihood(
    model: PreTrainedModel,
    ids: Tensor,  # (P,)
    window: Window,
) -> float:
    """Return the sum over the tokens that a window scores, in nats.

    The softmax is in single precision whatever the model's, and in pieces: over a vocabulary of
    128k, the logits of a window of 2,048 take 1 GB in it.
    """
    import torch
    from torch.nn.functional import cross_entropy

    expected = ids[window.first : window.end]
    with torch.inference_mode():
        logits = model(
            input_ids=ids[None, window.begin : window.end - 1],
            logits_to_keep=len(expected),
            use_cache=False,
        ).logits[0]  # (T, V)
        rows = max(1, _CHUNK // logits.shape[1])
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for start in range(0, len(expected), rows):
            piece, answers = logits[start : start + rows], expected[start : start + rows]
            total += cross_entropy(piece.float(), answers, reduction="none").double().sum()
        return float(total)
