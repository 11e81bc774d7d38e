"""Times passes by themselves: the same sessions as in a run, and nothing around them."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from cllm_bench.clock import Clock
from cllm_bench.family import ModelFamily
from cllm_bench.pass_times import TURN, TURNS, Shape
from cllm_bench.session import Session

WARM_UP = 6  # passes of a turn that are not timed


def time_passes(
    family: ModelFamily,
    shapes: Collection[Shape],
    context: int,
    clock: Clock,
    turns: int = TURNS,
) -> Mapping[Shape, float]:
    """Return the median seconds of a pass of each shape, likeliest tokens read back included.

    Shapes take turns, in an order that is shuffled every time, so that a slow moment of the machine
    strikes all alike. A turn is a few passes, the first of them untimed: a method repeats its
    passes too, and finds its weights in the processor's caches where they fit. On `mini` a pass of
    one row behind other weights takes half as long again, and the next five are slow as well.

    Args:
        family: Of the weights.
        shapes: What to time; a shape for which the model has no positions is left out.
        context: Committed tokens, L.
        clock: Of the device.
        turns: That each shape takes, of `TURN` timed passes.
    """
    sessions = {role: family.session(role) for role in dict.fromkeys(s.role for s in shapes)}
    for role, session in sessions.items():
        session.prefill(_tokens(family, role, context, session.device))
    fitting = [shape for shape in shapes if shape.rows <= sessions[shape.role].room]
    inputs = {
        shape: _tokens(family, shape.role, shape.rows, sessions[shape.role].device)
        for shape in fitting
    }
    times: dict[Shape, list[float]] = {shape: [] for shape in fitting}
    order = random.Random(0)
    with _undisturbed():
        for _ in range(turns):
            for shape in order.sample(fitting, len(fitting)):
                session, ids = sessions[shape.role], inputs[shape]
                found = [_pass(session, ids, shape, clock) for _ in range(WARM_UP + TURN)]
                times[shape] += found[WARM_UP:]
    return {shape: statistics.median(found) for shape, found in times.items()}


def time_prefill(
    family: ModelFamily, role: str, tokens: int, clock: Clock, repeats: int = 5
) -> float:
    """Return the median seconds to run a prompt of so many tokens."""
    session = family.session(role)
    prompt = _tokens(family, role, tokens, session.device)
    found = []
    with _undisturbed():
        for _ in range(1 + repeats):
            start = clock.seconds()
            session.prefill(prompt).logits.argmax(-1).tolist()
            found.append(clock.seconds() - start)
    return statistics.median(found[1:])


def _pass(session: Session, ids: torch.Tensor, shape: Shape, clock: Clock) -> float:
    depth = mask = None
    if shape.tree:  # a chain, drawn as a tree: the work is the same for any tree of so many rows
        depth = torch.arange(shape.rows, device=session.device)
        mask = torch.ones(shape.rows, shape.rows, dtype=torch.bool, device=session.device).tril()
    start = clock.seconds()
    session.forward(ids, depth=depth, mask=mask).logits.argmax(-1).tolist()
    seconds = clock.seconds() - start
    session.keep(0)
    return seconds


def _tokens(
    family: ModelFamily, role: str, count: int, device: torch.device
) -> torch.Tensor:  # (count,)
    generator = torch.Generator().manual_seed(count)
    return torch.randint(family.vocabulary(role), (count,), generator=generator).to(device)


@contextmanager
def _undisturbed() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
