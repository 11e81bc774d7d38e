"""Evaluates a CLLM on held-out questions while it is trained, and detects a collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.contracts import Sample, Sampling, Task
from cllm_bench.decoding.repetition import is_repetitive
from cllm_bench.decoding.stop_strings import cut, ends_of
from cllm_bench.engine.clock import Clock
from cllm_bench.errors import UserError

from ..jacobi.method import Jacobi, JacobiDecoder
from ..trajectories.target_answers import TaskQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REPETITIVE = 0.25  # share of held-out replies by which loops may become more frequent
LOSS = 1.0  # nats a token by which the held-out AR loss may rise
SCORE = 0.25  # share of the first held-out score that must be left


class _Reply(NamedTuple):
    """What one held-out question came to."""

    tokens: int  # behind the first, which the prefill gives
    passes: int
    score: float | None  # of 1; None is not graded
    repetitive: bool
    mechanism: Mapping[str, float]  # see `jacobi.mechanism`


class Watch:
    """Decodes held-out questions with the model in training.

    Args:
        questions: What to ask, with the answers whose loss is watched.
        tokenizer: The model's.
        stop_ids: Ids that end a reply.
        settings: Of Jacobi decoding: as inference will decode.
        pad_id: Of the tokenizer.
    """

    def __init__(
        self,
        questions: Sequence[TaskQuestion],
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        settings: Jacobi,
        pad_id: int,
    ) -> None:
        self._questions = questions
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._settings = settings
        self._pad_id = pad_id
        stops = {each.label: each.task.stop for each in questions}
        self._ends = {label: ends_of(strings, tokenizer) for label, strings in stops.items()}
        # A model that no longer stops need not fill the whole limit to show it.
        longest = max(len(each.example.answer) for each in questions)
        self._limit = 2 * longest + settings.block_size

    def __call__(self, model: PreTrainedModel) -> Mapping[str, float]:
        """Return AR loss, tokens per pass, score (of 1) and rate of repetition, all held out.

        And how many tokens an iteration fast-forwards and a block finds early, in the mean over
        the replies. All but the loss also for each task, where there are several
        (`held_out_score/gsm8k`).
        Questions that do not fit in the model's positions are left out.

        Raises:
            UserError: None fits.
        """
        from cllm_bench.engine.session import Session

        size = int(model.config.get_text_config().vocab_size)
        decoder = JacobiDecoder(self._settings, Session(model), size, self._pad_id)
        positions = decoder.session.room
        questions = [each for each in self._questions if each.example.length <= positions]
        if not questions:
            raise UserError(
                f"none of {len(self._questions)} held-out questions fits in the model's "
                f"{positions} positions; give shorter ones"
            )
        replies = {
            label: [
                self._reply(decoder, each, positions) for each in questions if each.label == label
            ]
            for label in dict.fromkeys(each.label for each in questions)
        }
        every = [reply for found in replies.values() for reply in found]
        figures = {"held_out_ar_loss": _ar_loss(model, questions)} | _figures(every)
        if len(replies) > 1:
            for label, found in replies.items():
                figures |= {f"{name}/{label}": value for name, value in _figures(found).items()}
        return figures

    def _reply(self, decoder: JacobiDecoder, asked: TaskQuestion, positions: int) -> _Reply:
        import torch

        from cllm_bench.decoding.loop import generate

        label, task, sample, example = asked
        room = positions - len(example.prompt)
        found = generate(
            decoder,
            torch.tensor(example.prompt, device=decoder.session.device),
            sampling=Sampling(),
            max_new_tokens=min(task.max_new_tokens, self._limit, room),
            stop_ids=self._stop_ids,
            clock=Clock(),
            ends=self._ends[label],
        )
        return _Reply(
            len(found.token_ids) - 1,
            len(found.accept_lengths),
            self._score(task, sample, found.token_ids),
            is_repetitive(found.token_ids),
            decoder.counters(),
        )

    def _score(self, task: Task, sample: Sample, token_ids: Sequence[int]) -> float | None:
        reply = str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
        score = task.score(sample, [cut(reply, task.stop)])
        return None if score is None else score / task.best_score


def _figures(replies: Sequence[_Reply]) -> dict[str, float]:
    graded = [reply.score for reply in replies if reply.score is not None]
    passes = max(1, sum(reply.passes for reply in replies))
    return {
        "held_out_tokens_per_pass": sum(reply.tokens for reply in replies) / passes,
        **({"held_out_score": sum(graded) / len(graded)} if graded else {}),
        "held_out_repetitive": sum(reply.repetitive for reply in replies) / len(replies),
        **{f"held_out_{name}": value for name, value in _means(replies).items()},
    }


def _means(replies: Sequence[_Reply]) -> dict[str, float]:
    """Return the mean of each figure of the mechanism over the replies that have it."""
    found: dict[str, list[float]] = {}
    for reply in replies:
        for name, value in reply.mechanism.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _ar_loss(model: PreTrainedModel, questions: Sequence[TaskQuestion]) -> float:
    """Return the mean cross-entropy of the answers in hand, in nats a token."""
    from ..recipes.examples import collate
    from ..recipes.losses import answer_loss

    total = count = 0.0
    for each in questions:
        loss = answer_loss(model, collate([each.example]))
        total, count = total + float(loss.total), count + loss.count
    return total / count


def collapsed(evaluations: Sequence[Mapping[str, float]]) -> str | None:
    """Say why training must stop, comparing the newest two evaluations with the first.

    One bad evaluation may be the shock of the first steps, from which a model recovers.
    """
    first, newest = evaluations[0], evaluations[-2:]
    if len(evaluations) < 3:
        return None

    def both(name: str) -> list[float]:
        return [each[name] for each in newest]

    if min(both("held_out_repetitive")) > first["held_out_repetitive"] + REPETITIVE:
        return _reason("repetition rate on held-out questions", first, newest, "repetitive")
    if min(both("held_out_ar_loss")) > first["held_out_ar_loss"] + LOSS:
        return _reason("AR loss on held-out answers", first, newest, "ar_loss")
    graded = "held_out_score" in first
    if graded and max(both("held_out_score")) < SCORE * first["held_out_score"]:
        return _reason("score on held-out questions", first, newest, "score")
    return None


def _reason(
    what: str, first: Mapping[str, float], newest: Sequence[Mapping[str, float]], name: str
) -> str:
    before, now = first[f"held_out_{name}"], newest[-1][f"held_out_{name}"]
    return f"the {what} went from {before:.3g} to {now:.3g}"
