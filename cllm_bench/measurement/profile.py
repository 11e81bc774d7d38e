"""Measures what forward passes of one model cost, by rows and context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cllm_bench.contracts import Listen, Sampling
from cllm_bench.core.registry import Registry
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.passes import Shape
from cllm_bench.errors import UserError
from cllm_bench.report.profile import Profile

if TYPE_CHECKING:
    from cllm_bench.engine.clock import Clock


ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


CONTEXTS = (128, 512, 2048)


DECODED = 64  # tokens, to see what is spent outside the passes


DECODINGS = 7


def measure(
    family: ModelFamily,
    role: str,
    rows: Sequence[int],
    contexts: Sequence[int],
    listen: Listen,
) -> Profile:
    """Time the passes of one model.

    Args:
        family: With a resolved runtime.
        role: Whose weights.
        rows: Numbers of new tokens, the first of them 1.
        contexts: Cached tokens; those that the model has no positions for are left out.
        listen: Told what runs.

    Raises:
        UserError: The model has no positions for the shortest context.
    """
    from cllm_bench.engine.clock import device_clock
    from cllm_bench.engine.fused_layers import fused_layers_of
    from cllm_bench.engine.pass_timing import time_passes, time_prefill
    from cllm_bench.machine.roofline import bandwidth, cache_bytes, read_bandwidth, weight_bytes

    listen("loading the weights", 0, 1)
    clock, model = device_clock(*family.runtime.devices), family.model(role)
    room = family.session(role).room
    fitting = [context for context in contexts if context + 1 <= room]
    if not fitting:
        raise UserError(
            f"'{role}' has room for {room} tokens, and passes are timed from {min(contexts)} on"
        )
    seconds, prefill = [], []
    for done, context in enumerate(fitting):
        listen(f"{context:,} tokens cached", done, len(fitting) + 1)
        shapes = [Shape(role, count, False) for count in rows]
        times = time_passes(family, shapes, context, clock)
        seconds.append(tuple(times.get(shape) for shape in shapes))
        prefill.append(time_prefill(family, role, context, clock))
    listen("what is spent outside the passes", len(fitting), len(fitting) + 1)
    measured = bandwidth(family.runtime.device)
    return Profile(
        family.name,
        role,
        tuple(rows),
        tuple(fitting),
        tuple(seconds),
        tuple(prefill),
        _outside(family, role, min(DECODED, room - 1), clock),
        weight_bytes(model),
        cache_bytes(model),
        measured and measured.copy,
        measured and measured.read,
        layers=int(model.config.get_text_config().num_hidden_layers),
        fused_layers=len(fused_layers_of(model)),
        quantised=family.quantised(role),
        weights_bandwidth=read_bandwidth(family.runtime.device, weight_bytes(model)),
    )


def _outside(family: ModelFamily, role: str, tokens: int, clock: Clock) -> float:
    """Return the share of the baseline's decode time that is outside its forward passes."""
    import statistics

    import torch

    from cllm_bench.decoding.loop import generate

    _, baseline = Registry().baseline()
    model, calls = family.model(role), list[float]()
    decoder = baseline(checkpoint=role).bind(family)
    prompt = torch.zeros(1, dtype=torch.long, device=model.device)
    forward = model.forward

    def timed(*args: Any, **inputs: Any) -> Any:
        start = clock.seconds()
        output = forward(*args, **inputs)
        calls.append(clock.seconds() - start)
        return output

    shares = []
    model.__dict__["forward"] = timed
    try:
        for _ in range(DECODINGS):
            calls.clear()
            found = generate(
                decoder,
                prompt,
                sampling=Sampling(),
                max_new_tokens=tokens,
                stop_ids=(),
                clock=clock,
            )
            shares.append(1 - sum(calls[1:]) / found.decode_seconds)  # the first is the prefill
    finally:
        del model.__dict__["forward"]
    return statistics.median(shares)
