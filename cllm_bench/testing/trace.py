"""Traces a decoder pass by pass and compares it with the plainest decoding there is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cllm_bench.contracts import Decoder, LibraryDecoder, Sampling, Step
from cllm_bench.decoding.exactness import verdict
from cllm_bench.decoding.sampling import Chooser
from cllm_bench.engine.family import ModelFamily
from cllm_bench.testing.outcome import Failed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Bind = Callable[[], Decoder | LibraryDecoder]


class TracedPass(NamedTuple):
    """A step, and what the verifying model was asked for meanwhile.

    Attributes:
        tokens: What it settled.
        drafted: Guesses that it says it checked.
        forwards: Forward passes of the verifying model.
        position: The first position of the last of them; none where it is not known.
    """

    tokens: tuple[int, ...]
    drafted: int
    forwards: int
    position: int | None


class Case(NamedTuple):
    """One prompt for one family, and how its tokens are chosen."""

    family: ModelFamily
    role: str  # of the verifying model
    prompt: tuple[int, ...]
    limit: int
    sampling: Sampling = Sampling()

    def __str__(self) -> str:
        """Return the case as failures name it."""
        text = f"{self.family.name}, a prompt of {len(self.prompt)} tokens"
        if self.sampling.temperature:
            text += f", temperature {self.sampling.temperature:g}, top-p {self.sampling.top_p:g}"
            text += f", seed {self.sampling.seed}"
        return text


def plain(case: Case) -> tuple[int, ...]:
    """Decode autoregressively in the plainest way: the whole text anew for every token, no cache.

    It shares no code with the methods but the choice of a token from its logits.
    """
    return _plain(case.family.model(case.role), case.prompt, case.limit, case.sampling)


@functools.lru_cache(maxsize=2048)
@torch.inference_mode()
def _plain(
    model: PreTrainedModel, prompt: tuple[int, ...], limit: int, sampling: Sampling
) -> tuple[int, ...]:
    choose = Chooser(sampling, model.device)
    ids = list(prompt)
    for place in range(limit):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        ids.append(int(choose(logits[-1:], place)))
    return tuple(ids[len(prompt) :])


def trace(decoder: Decoder | LibraryDecoder, case: Case) -> list[TracedPass]:
    """Decode up to the limit or past it, and note every step.

    Raises:
        Failed: A step is malformed, or the steps end.
    """
    passes: list[TracedPass] = []
    with _watched(case.family.model(case.role)) as positions:

        def settle(step: Step) -> None:
            _refuse(step, f"{case}: step {len(passes)}")
            first = positions[-1] if positions else None
            passes.append(TracedPass(step.tokens, step.drafted, len(positions), first))
            positions.clear()

        prompt_ids = torch.tensor(case.prompt)
        if isinstance(decoder, LibraryDecoder):
            options: dict[str, Any] = {"max_new_tokens": case.limit, "stop_ids": frozenset()}
            decoder.answer(prompt_ids, case.sampling, settle=settle, **options)
        else:
            for step in decoder(prompt_ids, case.sampling):
                settle(step)
                if len(reply(passes)) >= case.limit:
                    break
    if (count := len(reply(passes))) < case.limit:
        raise Failed(
            f"{case}: the steps end after {count} tokens, before the limit of {case.limit}; a "
            "decoder goes on without end, up to the model's last position"
        )
    return passes


def reply(passes: Sequence[TracedPass]) -> list[int]:
    """Return all settled tokens."""
    return [token for each in passes for token in each.tokens]


def _refuse(step: object, where: str) -> None:
    if not isinstance(step, Step):
        raise Failed(f"{where} is a {type(step).__name__}; yield cllm_bench.contracts.Step")
    if not isinstance(step.tokens, tuple) or any(type(token) is not int for token in step.tokens):
        raise Failed(
            f"{where}: tokens must be a tuple of int, not {step.tokens!r}; `.tolist()` makes ints "
            "of a tensor"
        )
    if not step.tokens:
        raise Failed(
            f"{where} settles no token; every pass settles at least the token that the model "
            "itself chooses behind the newest settled one"
        )
    if type(step.drafted) is not int or step.drafted < 0:
        raise Failed(f"{where}: drafted must be a number of guesses, not {step.drafted!r}")


@contextmanager
def _watched(model: PreTrainedModel) -> Iterator[list[int | None]]:
    """Note the first position of each forward pass of a model."""
    seen: list[int | None] = []

    def note(_: object, args: object, options: dict[str, Any]) -> None:
        positions = options.get("position_ids")
        seen.append(None if positions is None else int(positions.min()))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def compare(passes: Sequence[TracedPass], case: Case, bind: Bind) -> None:
    """Compare a reply with the plain one.

    Args:
        passes: What the decoder did.
        case: On which prompt.
        bind: Makes a fresh decoder, to tell whether an earlier prompt is to blame.

    Raises:
        Failed: They differ, and not by a numerical tie.
    """
    expected = plain(case)
    index = _difference(reply(passes)[: case.limit], case)
    if index is None:
        return
    end, step = 0, -1
    while end <= index:
        step += 1
        end += len(passes[step].tokens)
    start = end - len(passes[step].tokens)
    raise Failed(
        f"{case}: token {index} of the reply is {reply(passes)[index]}, and plain autoregressive "
        f"decoding gives {expected[index]}. Step {step}{' (the prefill)' if step == 0 else ''} "
        f"settled {passes[step].tokens}, expected {expected[start:end]}, having checked "
        f"{passes[step].drafted} guesses. {_hint(passes, step, index - start, case, bind)}"
    )


def _difference(tokens: Sequence[int], case: Case) -> int | None:
    prompt_ids = torch.tensor(case.prompt)
    open_session = functools.partial(case.family.session, case.role)
    found = verdict(tokens, plain(case), prompt_ids, case.sampling, open_session)
    return found.first_difference if found.kind == "mismatch" else None


def _hint(passes: Sequence[TracedPass], step: int, offset: int, case: Case, bind: Bind) -> str:
    """Say where to look."""
    again = reply(trace(bind(), case))[: case.limit]
    if _difference(again, case) is None:
        return (
            "A fresh decoder gets it right: something is left over from an earlier prompt. Start "
            "each prompt with `session.prefill`, and make tables and random sources in `__call__`"
        )
    shift = displaced(passes[: step + 1], case)
    if shift is not None:
        return shift
    if step == 0:
        return "The first token is chosen from the prefill's last row: `choose(logits, 0)`"
    if case.sampling.temperature:
        return (
            "Choose with `Chooser`; `place` is the index in the reply of the token behind the "
            "pass's first row"
        )
    if offset == len(passes[step].tokens) - 1:
        return (
            "It is the last of its step, which the model itself chooses behind the last accepted "
            "guess: look at the row it is taken from, and at mask and depth of that row"
        )
    return (
        "It is a guess that was accepted: a guess stands where it equals what the model chooses "
        "in the row before it (in a tree, in its parent's row)"
    )


def displaced(passes: Sequence[TracedPass], case: Case) -> str | None:
    """Say at which step a pass began elsewhere than at the newest settled token, if any did."""
    newest = len(case.prompt) - 1
    for index, each in enumerate(passes):
        if index and each.position is not None and each.position != newest:
            wrong = each.position - newest
            return (
                f"The pass of step {index} begins at position {each.position}, and the newest "
                f"settled token stands at {newest}: `session.keep` committed {abs(wrong)} "
                f"{'row' if abs(wrong) == 1 else 'rows'} too {'many' if wrong > 0 else 'few'} "
                "before it. A pass that settles n tokens keeps n rows: the newest settled token "
                "it began with, and the accepted guesses"
            )
        newest += len(each.tokens)
    return None
