"""Chooses the engine of a model on a GPU: the fastest that passes a self-check.

How fast an engine is depends on the model, the device and the release of torch, and a rule about it
would be wrong somewhere. So each is tried: it must answer a prompt, chains, a tree and what comes
behind a rollback as the eager engine does, and then its passes of one row are timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cllm_bench.engine.clock import Clock
from cllm_bench.engine.runtime import EngineChoice
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError

CANDIDATES = ("eager", "graph", "compiled")
CONTEXT = 200  # tokens of the prompt, if the model has as many positions
TIMED = 20  # passes
WARM_UP = 5  # passes before them
ROUNDINGS = 64.0  # of the largest logit, that an engine may differ by


def fastest_engine(open_session: Callable[[str], Session], clock: Clock) -> EngineChoice:
    """Try all engines on one model.

    Args:
        open_session: Opens a session with an engine.
        clock: Of the device.

    Raises:
        UserError: Not even the eager engine runs it.
    """
    expected: Sequence[Tensor] = ()
    times, refused = {}, {}
    for engine in CANDIDATES:
        try:
            session = open_session(engine)
            found = list(_answers(session))
            if expected and (difference := _difference(found, expected)) is not None:
                refused[engine] = f"its logits differ by {difference:.2g}"
                continue
            expected = expected or found
            times[engine] = 1000 * _seconds(session, clock)
        except (UserError, RuntimeError) as error:
            if engine == "eager":
                raise
            refused[engine] = " ".join(str(error).split())[:200]
    best = min(times, key=lambda engine: times[engine])
    return EngineChoice(engine=best, milliseconds=times, refused=refused)


def _answers(session: Session) -> Iterator[Tensor]:
    """Yield logits of passes of every kind that methods run."""
    ids = [(7919 * place + 11) % session.vocabulary for place in range(CONTEXT)]
    yield session.prefill(torch.tensor(ids[: _context(session)], device=session.device)).logits
    yield session.forward(ids[:1]).logits
    session.keep(1)
    yield session.forward(ids[:16]).logits
    session.keep(0)
    depth = torch.tensor([0, 1, 1, 2, 2, 3], device=session.device)
    parents = [-1, 0, 0, 1, 2, 3]
    tree = torch.eye(6, dtype=torch.bool)
    for row, parent in enumerate(parents[1:], start=1):
        tree[row] |= tree[parent]
    yield session.forward(ids[:6], depth=depth, mask=tree.to(session.device)).logits
    session.keep(torch.tensor([0, 2, 4], device=session.device))
    yield session.forward(ids[:3]).logits
    session.keep(0)


def _context(session: Session) -> int:
    return min(CONTEXT, max(1, session.room - 32))


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float | None:
    """Return how far logits are from the eager engine's, where rounding does not explain it."""
    for own, wanted in zip(found, expected, strict=True):
        difference = float((own.float() - wanted.float()).abs().max())
        largest = float(wanted.float().abs().max())
        if not difference <= ROUNDINGS * torch.finfo(wanted.dtype).eps * largest:
            return difference
    return None


def _seconds(session: Session, clock: Clock) -> float:
    """Return the median seconds of a pass of one row, its token read back."""
    times = []
    for _ in range(WARM_UP + TIMED):
        start = clock.seconds()
        session.forward([1]).tokens()
        times.append(clock.seconds() - start)
        session.keep(0)
    return statistics.median(times[WARM_UP:])
