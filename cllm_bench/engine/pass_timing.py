"""Times passes by themselves: the same sessions as in a run, and nothing around them."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.passes import Shape
from cllm_bench.engine.session import Session

TURN = 5  # timed passes in a row
TURNS = 5  # where shapes are timed once
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
    one row behind other weights takes half as long again, and the next five are slow as well. Where
    a shape's passes come behind other weights, a pass of those comes before each, untimed.

    Args:
        family: Of the weights.
        shapes: What to time; left out is a shape for which the model has no positions, or whose
            weights no method of this process has bound.
        context: Committed tokens, L.
        clock: Of the device.
        turns: That each shape takes, of `TURN` timed passes.
    """
    passes = _Passes(family, context, clock)
    fitting = {shape: run for shape in shapes if (run := passes.of(shape)) is not None}
    times: dict[Shape, list[float]] = {shape: [] for shape in fitting}
    order = random.Random(0)
    with _undisturbed():
        for _ in range(turns):
            for shape in order.sample([*fitting], len(fitting)):
                found = [fitting[shape]() for _ in range(WARM_UP + TURN)]
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
            session.prefill(prompt).tokens()
            found.append(clock.seconds() - start)
    return statistics.median(found[1:])


TimedPass = Callable[[], float]  # runs once, and returns the seconds that it took


class _Passes:
    """Passes of a family's weights, by shape."""

    def __init__(self, family: ModelFamily, context: int, clock: Clock) -> None:
        self._family = family
        self._context = context
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def of(self, shape: Shape) -> TimedPass | None:
        """Return a pass of a shape, behind an untimed one of other weights where it has that."""
        own = self._own(shape)
        if own is None or not shape.after:
            return own
        parts = self._family.parts(shape.after)
        other = self._own(Shape(shape.after, min(parts, default=1), tree=False))
        if other is None:
            return None

        def behind() -> float:
            other()
            return own()

        return behind

    def _own(self, shape: Shape) -> TimedPass | None:
        part = self._family.parts(shape.role).get(shape.rows)
        if part is not None:
            return partial(self._run_part, part)
        if shape.role not in self._family.roles:
            return None
        session = self._session(shape.role)
        if shape.rows > session.room:
            return None
        depth = mask = None
        if shape.tree:  # a chain, drawn as a tree: any tree of so many rows is the same work
            depth = torch.arange(shape.rows, device=session.device)
            mask = torch.ones(shape.rows, shape.rows, dtype=torch.bool, device=session.device)
            mask = mask.tril()
        ids = _tokens(self._family, shape.role, shape.rows, session.device).tolist()
        return partial(self._run, session, ids, depth, mask)

    def _session(self, role: str) -> Session:
        if role not in self._sessions:
            session = self._sessions[role] = self._family.session(role)
            session.prefill(_tokens(self._family, role, self._context, session.device))
        return self._sessions[role]

    def _run(
        self,
        session: Session,
        ids: Sequence[int],
        depth: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> float:
        start = self._clock.seconds()
        session.forward(ids, depth=depth, mask=mask).tokens()
        seconds = self._clock.seconds() - start
        session.keep(0)
        return seconds

    def _run_part(self, part: Callable[[], torch.Tensor]) -> float:
        start = self._clock.seconds()
        part().tolist()
        return self._clock.seconds() - start


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
