"""Conditions in which two runs differ: weights, model, machine, runtime, versions, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cllm_bench.results.manifest import Manifest

_SAME_MACHINE = ("cpu", "cores", "gpu")  # what must be equal for times to be comparable


@dataclass(frozen=True)
class Condition:
    """A condition in which two runs differ.

    Attributes:
        name: What it is, such as `threads`.
        a: Its value in the first run; null where it is not stored.
        b: The same of the second.
    """

    name: str
    a: Any
    b: Any


def differing_conditions(
    a: Manifest, b: Manifest, tasks: Iterable[str], methods: Iterable[str]
) -> tuple[Condition, ...]:
    """Return all that differs, the most telling first.

    Args:
        a: Manifest of the first run.
        b: Manifest of the second.
        tasks: Labels of the tasks that both have.
        methods: Labels of the methods that both have.
    """
    tasks, methods = list(tasks), list(methods)
    ours, theirs = ({**_general(m), **_particular(m, tasks, methods)} for m in (a, b))
    names = dict.fromkeys([*ours, *theirs])
    return tuple(
        Condition(name, ours.get(name), theirs.get(name))
        for name in names
        if ours.get(name) != theirs.get(name)
    )


def differing_machines(a: Manifest, b: Manifest) -> tuple[Condition, ...]:
    """Return in what two machines differ so that their times cannot be compared."""
    values = ((name, getattr(a.machine, name), getattr(b.machine, name)) for name in _SAME_MACHINE)
    return tuple(Condition(*each) for each in values if each[1] != each[2])


def _general(manifest: Manifest) -> dict[str, Any]:
    """Return the conditions of a whole run by name."""
    configuration, machine = manifest.configuration, manifest.machine
    checkpoints, engines, products = manifest.checkpoints, manifest.engines, manifest.products
    return {
        **_named("checkpoint ", configuration.get("checkpoints")),
        "model": manifest.model,
        **_named("weights of ", {k: v.kind for k, v in manifest.quantised.items()}, " run as"),
        **{name: getattr(machine, name) for name in (*_SAME_MACHINE, "platform")},
        **{name: getattr(machine, name) for name in ("driver", "cuda", "attention_kernels")},
        **asdict(manifest.runtime),
        **_named("engine of ", {role: each.engine for role, each in engines.items()}),
        **_named("kernels of ", {role: dict(each.kernels) for role, each in products.items()}),
        **_named("fused layers of ", {k: v.fused_layers for k, v in checkpoints.items()}),
        **manifest.versions,
        **_named("code of ", configuration.get("code")),
        "commit": manifest.git and manifest.git.commit,
        "files changed since": manifest.git and manifest.git.changed_files,
        "baseline": manifest.baseline,
        "temperature": manifest.sampling.temperature,
        "top-p": manifest.sampling.top_p,
        "seed": manifest.seed,
        "repeats": manifest.repeats,
        "phases": 1 + max(cell.phase for cell in manifest.cells),
        "bytes flushed before a reply": manifest.flushed_bytes,
    }


def _particular(manifest: Manifest, tasks: Iterable[str], methods: Iterable[str]) -> dict[str, Any]:
    """Return the conditions of tasks and methods by name."""
    found: dict[str, Any] = {}
    for label in tasks:
        task, stored = manifest.task(label), stored_task(manifest, label)
        found |= {
            **_named(f"{label}: ", stored.get("settings")),
            f"{label}: template": task.template,
            f"{label}: source": task.source,
            f"{label}: data": stored.get("data"),
            f"{label}: text": stored.get("text"),
            f"{label}: questions": task.samples,
            f"{label}: metric": task.metric,
            f"{label}: max_new_tokens": task.max_new_tokens,
        }
    for label in methods:
        cell = manifest.cell(label)
        if cell is not None:
            found |= {
                f"{label}: checkpoint": cell.checkpoint,
                f"{label}: claims to be": cell.exactness,
                **_named(f"{label}: ", cell.settings),
            }
    return found


def stored_task(manifest: Manifest, label: str) -> Mapping[str, Any]:
    """Return what a run's configuration says of a task; nothing where it is not stored."""
    tasks = manifest.configuration.get("tasks")
    found = tasks.get(label) if isinstance(tasks, dict) else None
    return found if isinstance(found, dict) else {}


def _named(before: str, values: Any, after: str = "") -> dict[str, Any]:
    """Return values under longer names; nothing where an earlier version did not store them."""
    if not isinstance(values, Mapping):
        return {}
    return {f"{before}{name}{after}": value for name, value in values.items()}
