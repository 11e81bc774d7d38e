"""Which methods are loaded together where a run goes through its checkpoints one set at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cllm_bench.measurement.method_specs import MethodSpec


class _Weights(NamedTuple):
    """Weights that a method holds: a role's, as the family shares them or as a library has them."""

    role: str
    library: bool


def split_into_phases(specs: Sequence[MethodSpec]) -> tuple[tuple[MethodSpec, ...], ...]:
    """Group methods by the weights that they need; each phase holds no more than its methods need.

    A set of weights that lies within another one makes no phase of its own: its methods take turns
    with those that need more, which costs no memory and pairs them in time. A method comes in the
    first phase that has its weights; so no baseline comes behind what is compared with it, since
    that needs all of the baseline's weights.

    Args:
        specs: The methods, a baseline before the others on its checkpoint.
    """
    needs = {spec.label: _weights(spec) for spec in specs}
    phases = [
        need
        for need in dict.fromkeys(needs.values())
        if not any(need < other for other in needs.values())
    ]
    first = {label: next(n for n in phases if need <= n) for label, need in needs.items()}
    return tuple(tuple(spec for spec in specs if first[spec.label] == phase) for phase in phases)


def _weights(spec: MethodSpec) -> frozenset[_Weights]:
    kinds = (False, True) if spec.own_weights else (False,)
    return frozenset(_Weights(role, library) for role in spec.roles for library in kinds)
