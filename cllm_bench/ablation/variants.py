"""The variants of an ablation: `--vary` texts to recipes, and the decoding that follows each."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cllm_bench.contracts import Recipe
from cllm_bench.core.settings import Selection, as_dict, build
from cllm_bench.errors import UserError

BASE = "base"
LONGEST_LABEL = 80
# A seed of training is not the seed of a method's guesses: varying one must not move the other.
_NOT_SHARED = {"checkpoint", "seed"}
_FURTHER = re.compile(r"\+(?=[A-Za-z_]\w*=)")  # not the plus of 1e+3

Changes = Mapping[str, str]


@dataclass(frozen=True)
class Variant:
    """One training of an ablation.

    Attributes:
        label: What differs from the base, safe as a folder's name.
        role: Its checkpoint's role in the run, safe within `--method`.
        recipe: All settings.
        changed: Those that differ from the base's.
    """

    label: str
    role: str
    recipe: Recipe
    changed: Mapping[str, Any]


def parse_vary(text: str) -> list[Changes]:
    """Parse `KEY=V1|V2`, where a value may carry further settings: `KEY=V1|V2+OTHER=V3`.

    Returns:
        For each value, what it sets.

    Raises:
        UserError: The text has another form.
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key or not values:
        raise UserError(f"--vary '{text}' is not of the form KEY=VALUE|VALUE")
    found: list[Changes] = []
    for value in values.split("|"):
        first, *further = _FURTHER.split(value)
        changes = {key: first.strip()}
        for pair in further:
            name, _, given = pair.partition("=")
            if name in changes:
                raise UserError(f"'{name}' is given twice in --vary '{text}'")
            changes[name] = given.strip()
        found.append(changes)
    return found


def combinations(factors: Sequence[Sequence[Changes]], *, grid: bool) -> list[Changes]:
    """Return what each variant sets: one factor at a time, or every combination of their values.

    Raises:
        UserError: A grid of factors that set the same key.
    """
    if not grid:
        return [changes for factor in factors for changes in factor]
    merged: list[Changes] = []
    for parts in itertools.product(*factors):
        keys = [key for part in parts for key in part]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise UserError(f"--grid: '{twice}' is set by two --vary; put its values into one")
        merged.append({key: value for part in parts for key, value in part.items()})
    return merged


def expand(
    name: str, cls: type[Any], settings: Changes, combined: Sequence[Changes]
) -> tuple[Variant, ...]:
    """Build the base and its variants, each once, however it was written.

    Args:
        name: Of the recipe.
        cls: Its class.
        settings: The base's, as text.
        combined: What each variant sets.

    Raises:
        UserError: An unknown setting, or a value that the recipe refuses.
    """
    base: Recipe = build(cls, "recipe", Selection(name, settings))
    found = {BASE: Variant(BASE, "v00", base, {})}
    known = [base]
    for changes in combined:
        recipe: Recipe = build(cls, "recipe", Selection(name, {**settings, **changes}))
        if recipe in known:
            continue
        known.append(recipe)
        changed = _changed(base, recipe)
        label = _label(changed, found)
        found[label] = Variant(label, f"v{len(found):02}", recipe, changed)
    return tuple(found.values())


def following(
    method: type[Any], given: Changes, recipe: Any, varied: Iterable[str]
) -> dict[str, str]:
    """Return a method's settings for a variant: those given, and those it shares with the recipe.

    A setting that both have follows the recipe where it is varied, or is not at the recipe's
    default: what was trained for blocks of 8 is decoded in blocks of 8. What the user gave for the
    method stands.
    """
    own = {field.name for field in dataclasses.fields(method) if field.init} - _NOT_SHARED
    varied = set(varied)
    shared = {
        field.name: _text(value)
        for field in dataclasses.fields(recipe)
        if field.init and field.name in own
        for value in [getattr(recipe, field.name)]
        if field.name in varied or value != field.default
    }
    return {**shared, **given}


def _changed(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    before = as_dict(base)
    return {name: value for name, value in as_dict(recipe).items() if value != before[name]}


def _label(changed: Mapping[str, Any], taken: Iterable[str]) -> str:
    """Return `KEY=VALUE+KEY=VALUE` as a folder may be called; cut or doubtful ones get a hash."""
    text = "+".join(f"{name}={_text(value)}" for name, value in changed.items())
    safe = re.sub(r"[^A-Za-z0-9._=+-]", "-", text)
    if len(safe) <= LONGEST_LABEL and safe not in taken:
        return safe
    return f"{safe[: LONGEST_LABEL - 7]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _text(value: object) -> str:
    """Write a setting as the command line reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
