"""The methods of a run with their settings, and the baselines that they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from cllm_bench.contracts import Exactness, Method, Sampling
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import Selection, build, label
from cllm_bench.errors import UserError


@dataclass(frozen=True)
class MethodSpec:
    """A method with its settings: one row of the table for each task.

    Attributes:
        label: The shortest text that selects it.
        name: Its registered name.
        method: The settings.
        baseline: Label of the baseline method on the same checkpoint.
        exactness: What the method claims at the temperature of the run.
        again: Whether it is the baseline once more, to show what measuring the same twice gives.
    """

    label: str
    name: str
    method: Method
    baseline: str
    exactness: Exactness
    again: bool = False

    @property
    def checkpoint(self) -> str:
        """The role whose output the method settles."""
        return self.method.checkpoint

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles that the method needs."""
        return (self.checkpoint, *getattr(self.method, "extra_roles", ()))

    @property
    def own_weights(self) -> bool:
        """Whether it loads its roles' weights once more, as a library has them."""
        return bool(getattr(self.method, "own_weights", False))


def plan_methods(
    registry: Registry,
    selections: Sequence[Selection],
    sampling: Sampling,
    *,
    again: bool = False,
) -> tuple[MethodSpec, ...]:
    """Make the specs asked for, with the baseline on the target and on every other checkpoint used.

    Args:
        registry: Of methods.
        selections: What is asked for.
        sampling: How tokens are chosen.
        again: Whether the target's baseline is measured a second time, as if it were another
            method (A/A).

    Raises:
        UserError: An unknown method, settings that do not fit, or a method that cannot sample.
    """
    name, baseline = registry.baseline()
    specs: dict[str, MethodSpec] = {}

    def add(method_name: str, method: Method) -> None:
        own = label(name, baseline(checkpoint=method.checkpoint))
        text = label(method_name, method)
        specs.setdefault(
            text, MethodSpec(text, method_name, method, own, _exactness(text, method, sampling))
        )

    wanted = [
        (selection.name, build(registry.methods.get(selection.name), "method", selection))
        for selection in selections
    ]
    add(name, baseline())
    for method_name, method in wanted:
        add(name, baseline(checkpoint=method.checkpoint))
        add(method_name, method)
    first, *others = specs.values()
    if again:
        others.insert(0, dataclasses.replace(first, label=f"{first.label} A/A", again=True))
    return (first, *others)


def _exactness(text: str, method: Method, sampling: Sampling) -> Exactness:
    greedy = sampling.temperature == 0
    claim = method.exactness if greedy else getattr(method, "sampled", None)
    if claim is None:
        raise UserError(f"method '{text}' decodes greedily only; leave --temperature at 0")
    known = get_args(Exactness)
    if claim not in known:  # else the run would store what no reader takes
        raise UserError(f"method '{text}' claims to be '{claim}', not one of {', '.join(known)}")
    return cast(Exactness, claim)
