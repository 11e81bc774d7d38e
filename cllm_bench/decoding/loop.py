"""The one loop that generates, for every method: limits, stops, counts and time live here only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cllm_bench.contracts import Decoder, LibraryDecoder, Sampling, Step
from cllm_bench.engine.clock import Clock
from cllm_bench.errors import ReplyEnded, StopReason

if TYPE_CHECKING:
    from torch import Tensor


Ends = Callable[[Sequence[int]], bool]


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated and what it took.

    Attributes:
        token_ids: Up to and including the stop token, never past the limit.
        prefill_tokens: Those of them that the first step settled: one, but for libraries' loops
            that guess before their first pass.
        accept_lengths: Tokens settled by each pass after the prefill, as the method gave them: the
            last may reach past the stop token or the limit.
        drafted: Guesses checked by each of those passes.
        prefill_seconds: From the prompt to the end of the first step.
        decode_seconds: From there to the last token.
        finish: Whether a stop token or string ended it, or the limit.
        device_seconds: From the prompt to the last token by the device's own clock; None on a CPU.
    """

    token_ids: tuple[int, ...]
    prefill_tokens: int
    accept_lengths: tuple[int, ...]
    drafted: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    finish: StopReason
    device_seconds: float | None = None


def generate(
    decoder: Decoder | LibraryDecoder,
    prompt_ids: Tensor,  # (P,)
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop_ids: Collection[int],
    clock: Clock,
    ends: Ends | None = None,
) -> Generation:
    """Decode one prompt and time it.

    The clock is read three times, synchronised with the device: at the start, after the first
    token, at the end. The device notes start and end too, which costs two stamps in its queue.

    Args:
        decoder: A method bound to its weights.
        prompt_ids: What to continue.
        sampling: How tokens are chosen.
        max_new_tokens: The limit.
        stop_ids: Tokens that end the reply.
        clock: Of the device.
        ends: Told the reply after every token: whether it ends there, by its text.

    Raises:
        ValueError: The limit is not positive, or a library's loop ended by itself.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    reply = _Reply(max_new_tokens, stop_ids, ends)
    if isinstance(decoder, LibraryDecoder):
        return _listen(decoder, prompt_ids, sampling, reply, clock)
    start = clock.begin()
    steps = decoder(prompt_ids, sampling)
    finish = reply.take(next(steps))
    first = clock.seconds()
    while finish is None:
        finish = reply.take(next(steps))
    end = clock.end()
    return reply.generation(finish, first - start, end - first, clock.device_seconds())


def _listen(
    decoder: LibraryDecoder,
    prompt_ids: Tensor,  # (P,)
    sampling: Sampling,
    reply: _Reply,
    clock: Clock,
) -> Generation:
    """Time a loop that is not ours; its tokens are counted like everybody's."""
    first: float | None = None

    def settle(step: Step) -> None:
        nonlocal first
        finish = reply.take(step)
        if first is None:
            first = clock.seconds()
        if finish is not None:
            raise ReplyEnded(finish)

    start = clock.begin()
    try:
        decoder.answer(
            prompt_ids,
            sampling,
            max_new_tokens=reply.limit,
            stop_ids=reply.stop_ids,
            settle=settle,
        )
    except ReplyEnded as ended:
        end = clock.end()
        assert first is not None
        return reply.generation(ended.finish, first - start, end - first, clock.device_seconds())
    raise ValueError("the library's loop ended before a stop token or the limit")


@dataclass
class _Reply:
    """The tokens of one reply as they are settled, and what each pass gave."""

    limit: int
    stop_ids: Collection[int]
    ends: Ends | None
    token_ids: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def take(self, step: Step) -> StopReason | None:
        """Append settled tokens up to the end of the reply; say what ended it, if anything did."""
        self.steps.append(step)
        token_ids, stop_ids, ends = self.token_ids, self.stop_ids, self.ends
        for token in step.tokens:
            token_ids.append(token)
            if token in stop_ids or (ends is not None and ends(token_ids)):
                return "stop"
            if len(token_ids) == self.limit:
                return "length"
        return None

    def generation(
        self, finish: StopReason, prefill: float, decode: float, device: float | None
    ) -> Generation:
        passes = self.steps[1:]
        return Generation(
            tuple(self.token_ids),
            min(len(self.steps[0].tokens), len(self.token_ids)),
            tuple(len(step.tokens) for step in passes),
            tuple(step.drafted for step in passes),
            prefill,
            decode,
            finish,
            device,
        )
