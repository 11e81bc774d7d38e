"""Reads what several commands are given: tasks, recipes, numbers, the sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cllm_bench.contracts import Task
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import build, parse_selection, split_selections
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.family_file import describe_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError

Tell = Callable[[str], None]


def check_sandbox(tasks: Sequence[Task], *, allowed: bool, tell: Tell) -> Mapping[str, Any] | None:
    """Try the sandbox where a task runs what a model writes; return what it holds.

    Args:
        tasks: The tasks of the command.
        allowed: Whether less than full isolation will do.
        tell: Called with a sentence on how strong the isolation is.

    Raises:
        UserError: Isolation is not full, and that is not allowed.
    """
    from cllm_bench.sandbox.isolation import allow_unsafe_code, require, strength

    if allowed:
        allow_unsafe_code()
    if not any(getattr(task, "runs_code", False) for task in tasks):
        return None
    found = strength()
    require(found)
    tell(str(found))
    return found.as_dict()


def build_tasks(registry: Registry, texts: Sequence[str]) -> dict[str, Task]:
    """Build the tasks asked for, by name.

    Raises:
        UserError: None is asked for, one twice, or one that does not exist or fit.
    """
    found: dict[str, Task] = {}
    for text in split_selections(required(texts, "--task", registry.tasks.names())):
        selection = parse_selection(text)
        if selection.name in found:
            raise UserError(f"task '{selection.name}' is asked for twice; make it two runs")
        found[selection.name] = build(registry.tasks.get(selection.name), "task", selection)
    return found


def at_least_one(value: int | None, option: str) -> None:
    """Refuse a number below 1.

    Raises:
        UserError: It is.
    """
    if value is not None and value < 1:
        raise UserError(f"{option} must be at least 1, not {value}")


def required(texts: Sequence[str], option: str, known: Sequence[str]) -> Sequence[str]:
    """Return what a repeatable option gave.

    Raises:
        UserError: Nothing.
    """
    if not texts:
        raise UserError(f"{option} is missing; known: {', '.join(known)}")
    return texts


class AskedRecipe(NamedTuple):
    """A recipe as a command asks for it."""

    name: str
    cls: type[Any]
    settings: Mapping[str, str]  # as text: the family's own, and over them what the user gave


def ask_recipe(registry: Registry, family: ModelFamily, text: str) -> AskedRecipe:
    """Look up `RECIPE[:key=value,…]`, with the settings that the family has for it.

    Raises:
        UserError: There is no such recipe, or the text is malformed.
    """
    selection = parse_selection(text)
    cls = registry.recipes.get(selection.name)
    own = {
        key: str(value) for key, value in family.description.recipes.get(selection.name, {}).items()
    }
    return AskedRecipe(selection.name, cls, {**own, **selection.settings})


def family_to_train(model: str, roles: Mapping[str, str], device: str, threads: int) -> ModelFamily:
    """Find a family whose weights a recipe may start from.

    Raises:
        UserError: There is no such model, checkpoint or device.
    """
    describe_family(model, roles)  # before torch is loaded: a wrong name is told at once
    # Weights in training stay in float32 whatever the device: the recipe sets the arithmetic.
    runtime = Runtime(device, "float32", threads=threads).resolve()
    return find_family(model, roles=roles, runtime=runtime)
