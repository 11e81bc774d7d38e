"""Refuses a run whose models and caches do not fit on the device, before any of them is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.errors import UserError
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.phases import split_into_phases
from cllm_bench.report.numbers import memory

if TYPE_CHECKING:
    from cllm_bench.engine.memory import Footprint
    from cllm_bench.measurement.plan import RunPlan

VERIFIED_ROWS = 128  # of the longest pass of most methods
RESERVE = 0.1  # of all else: activations, captured graphs, fragments


class Need(NamedTuple):
    """What one thing takes of the device's memory, in bytes."""

    what: str
    size: int


def memory_needed(
    specs: Sequence[MethodSpec],
    footprints: Mapping[str, Footprint],
    tokens: int,
    rows: int = VERIFIED_ROWS,
) -> list[Need]:
    """Return what methods that are loaded together need: the role of each weight, then the rest.

    A method keeps a session on every role that it runs. One session more, on the largest of these,
    compares a reply with the baseline's. Weights that a library loads for itself count again.

    Args:
        specs: The methods.
        footprints: Of their roles; a role without one counts nothing.
        tokens: Length of the longest sequence, prompt and reply.
        rows: Of logits that the largest pass gives.
    """
    own = dict.fromkeys(role for spec in specs for role in spec.roles)
    library = dict.fromkeys(role for spec in specs if spec.own_weights for role in spec.roles)
    known = {role: footprints[role] for role in own if role in footprints}
    needs = [Need(f"{role} weights", each.weights) for role, each in known.items()]
    needs += [
        Need(f"{role} weights once more for a library", known[role].weights)
        for role in library
        if role in known
    ]
    caches = [
        known[role].cache(tokens)
        for role in (role for spec in specs for role in spec.roles)
        if role in known and known[role].cache_per_token
    ]
    if caches:
        sessions = len(caches) + 1
        total = sum(caches) + max(caches)
        needs.append(Need(f"caches of {sessions} sequences of {tokens:,} tokens", total))
    logits = max((each.logits_per_row for each in known.values()), default=0) * rows
    needs.append(Need("logits", logits))
    needs.append(Need("reserve", round(RESERVE * sum(need.size for need in needs))))
    return needs


def refuse_shortage(plan: RunPlan, tokens: int) -> None:
    """Refuse a run that does not fit on its device; loads no weights.

    Args:
        plan: What to run.
        tokens: Length of the longest sequence, prompt and reply.

    Raises:
        UserError: It does not fit; with the figures and the ways out.
    """
    from cllm_bench.engine.memory import footprint
    from cllm_bench.machine.memory import free_memory

    family = plan.family
    devices = family.runtime.devices
    found = [free_memory(device) for device in devices]
    if None in found:
        return
    free = sum(size for size in found if size is not None)
    roles = dict.fromkeys(role for spec in plan.specs for role in spec.roles)
    sizes = {role: footprint(family.checkpoint(role), family.runtime) for role in roles}
    known = {role: size for role, size in sizes.items() if size is not None}
    windows = [task.text.window for task in plan.tasks if task.text is not None]
    rows = max([VERIFIED_ROWS, *windows])
    phases = [memory_needed(specs, known, tokens, rows) for specs in plan.phases]
    needs = max(phases, key=_total)
    total = _total(needs)
    if total > free:
        apart = [
            memory_needed(specs, known, tokens, rows) for specs in split_into_phases(plan.specs)
        ]
        fits_apart = not plan.phased and max(map(_total, apart)) <= free
        what = f"phase {phases.index(needs) + 1} of the run" if plan.phased else "the run"
        parts = ", ".join(f"{need.what} {memory(need.size)}" for need in needs if need.size)
        raise UserError(
            f"{what} needs {memory(total)} of memory on {', '.join(devices)}, and "
            f"{memory(free)} are free: {parts}; {_ways_out(plan, fits_apart=fits_apart)}"
        )


def _total(needs: Sequence[Need]) -> int:
    return sum(need.size for need in needs)


def _ways_out(plan: RunPlan, *, fits_apart: bool) -> str:
    ways = ["load one set of checkpoints at a time with --phases"] if fits_apart else []
    ways += ["name fewer methods or a smaller model"]
    if plan.family.runtime.dtype in ("float32", "float64"):
        ways.append("halve the weights with --dtype bfloat16")
    if plan.family.runtime.device == "cuda" and plan.family.runtime.device_map == "none":
        ways.append("spread them over several GPUs with --device-map auto")
    return ", or ".join(ways)
