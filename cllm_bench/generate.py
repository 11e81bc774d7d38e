"""The one loop that generates, for every method: limits, stops, counts and time live here only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cllm_bench.clock import Clock
from cllm_bench.contracts import Decoder, LibraryDecoder, Sampling, Step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated and what it took.

    Attributes:
        token_ids: Up to and including the stop token, never past the limit.
        accept_lengths: Tokens settled by each pass after the prefill, as the method gave them: the
            last may reach past the stop token or the limit.
        drafted: Guesses checked by each of those passes.
        prefill_seconds: From the prompt to the first token.
        decode_seconds: From the first token to the last.
        finish: Whether a stop token ended it, or the limit.
    """

    token_ids: tuple[int, ...]
    accept_lengths: tuple[int, ...]
    drafted: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    finish: Literal["stop", "length"]


def generate(
    decoder: Decoder | LibraryDecoder,
    prompt_ids: Tensor,  # (P,)
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop_ids: Collection[int],
    clock: Clock,
) -> Generation:
    """Decode one prompt and time it.

    The clock is read three times, synchronised with the device: at the start, after the first
    token, at the end.

    Raises:
        ValueError: The limit is not positive.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if isinstance(decoder, LibraryDecoder):
        return _listen(decoder, prompt_ids, sampling, max_new_tokens, stop_ids, clock)
    token_ids: list[int] = []
    accept_lengths: list[int] = []
    drafted: list[int] = []
    start = clock.seconds()
    steps = decoder(prompt_ids, sampling)
    finish = _take(next(steps).tokens, token_ids, max_new_tokens, stop_ids)
    first = clock.seconds()
    while finish is None:
        step = next(steps)
        accept_lengths.append(len(step.tokens))
        drafted.append(step.drafted)
        finish = _take(step.tokens, token_ids, max_new_tokens, stop_ids)
    end = clock.seconds()
    return Generation(
        tuple(token_ids),
        tuple(accept_lengths),
        tuple(drafted),
        first - start,
        end - first,
        finish,
    )


def _listen(
    decoder: LibraryDecoder,
    prompt_ids: Tensor,  # (P,)
    sampling: Sampling,
    limit: int,
    stop_ids: Collection[int],
    clock: Clock,
) -> Generation:
    """Time a loop that is not ours; its tokens are counted like everybody's."""
    steps: list[Step] = []
    first: float | None = None

    def settle(step: Step) -> None:
        nonlocal first
        steps.append(step)
        if first is None:
            first = clock.seconds()

    start = clock.seconds()
    decoder.answer(prompt_ids, sampling, max_new_tokens=limit, stop_ids=stop_ids, settle=settle)
    end = clock.seconds()
    token_ids: list[int] = []
    finish = None
    counted = 0
    while finish is None and counted < len(steps):
        finish = _take(steps[counted].tokens, token_ids, limit, stop_ids)
        counted += 1
    if finish is None or first is None:
        raise ValueError("the library's loop ended before a stop token or the limit")
    passes = steps[1:counted]
    return Generation(
        tuple(token_ids),
        tuple(len(step.tokens) for step in passes),
        tuple(step.drafted for step in passes),
        first - start,
        end - first,
        finish,
    )


def _take(
    settled: tuple[int, ...], token_ids: list[int], limit: int, stop_ids: Collection[int]
) -> Literal["stop", "length"] | None:
    """Append settled tokens up to the stop token or the limit; say which was reached, if any."""
    for token in settled:
        token_ids.append(token)
        if token in stop_ids:
            return "stop"
        if len(token_ids) == limit:
            return "length"
    return None
