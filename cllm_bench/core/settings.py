"""From `name:key=value,key=value` to a frozen dataclass of settings, and back to a label."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from cllm_bench.errors import UserError, did_you_mean

T = TypeVar("T")


class Selection(NamedTuple):
    """A name and the settings asked for with it, still as text."""

    name: str
    settings: Mapping[str, str]


def parse_selection(text: str, separator: str = ",") -> Selection:
    """Parse `name` or `name:key=value,key=value`.

    Args:
        text: What is asked for.
        separator: Between settings; another than the comma where it is itself a setting's value.

    Raises:
        UserError: A setting has no `=`, or is given twice.
    """
    name, _, tail = text.partition(":")
    return Selection(name.strip(), parse_pairs(tail.split(separator) if tail else [], text))


def parse_pairs(pairs: Sequence[str], context: str) -> dict[str, str]:
    """Parse `key=value` texts; `context` is shown in errors."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"'{pair}' in '{context}' is not of the form key=value")
        if key in settings:
            raise UserError(f"'{key}' is given twice in '{context}'")
        settings[key] = value.strip()
    return settings


def split_selections(texts: Sequence[str]) -> list[str]:
    """Split comma lists of selections; a comma between settings stays with them.

    `a,b:x=1,y=2,c` is `a`, `b:x=1,y=2` and `c`.
    """
    found: list[str] = []
    for text in texts:
        start = len(found)
        for part in text.split(","):
            if "=" in part and ":" not in part.partition("=")[0] and len(found) > start:
                found[-1] += f",{part}"
            elif part.strip():
                found.append(part.strip())
    return found


def build(
    cls: type[T], kind: str, selection: Selection, shared: Mapping[str, Any] | None = None
) -> T:
    """Make an instance of a dataclass of settings from text.

    Args:
        cls: The dataclass.
        kind: What it is, for errors: `method`, `task`, `recipe` or `objective`.
        selection: Its registered name and the settings asked for.
        shared: Settings of what it is a part of; those that both have are the same.

    Raises:
        UserError: An unknown setting, one that is shared, or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    values = {key: value for key, value in (shared or {}).items() if key in fields}
    own = fields.keys() - values.keys()
    for key, text in selection.settings.items():
        if key in values:
            raise UserError(
                f"{kind} '{selection.name}' follows the setting '{key}' beside it: give it there"
            )
        if key not in own:
            raise UserError(
                f"{kind} '{selection.name}' has no setting '{key}'; {did_you_mean(key, own)}"
            )
        values[key] = _convert(text, fields[key], f"{selection.name}:{key}")
    return cls(**values)


def _convert(text: str, wanted: Any, name: str) -> Any:
    origin = get_origin(wanted)
    if origin is Literal:
        choices = {str(choice): choice for choice in get_args(wanted)}
        if text not in choices:
            raise UserError(f"{name}={text} is not one of {', '.join(choices)}")
        return choices[text]
    if origin in (Union, types.UnionType):
        members = get_args(wanted)
        if type(None) in members and text.lower() in ("none", ""):
            return None
        (wanted,) = (member for member in members if member is not type(None))
        return _convert(text, wanted, name)
    try:
        return _SCALARS[wanted](text)
    except KeyError:
        raise UserError(f"{name} cannot be set from the command line") from None
    except ValueError:
        raise UserError(f"{name}={text} is not {_ARTICLES[wanted]}") from None


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError(text) from None


_SCALARS: dict[Any, Any] = {bool: _boolean, int: int, float: float, str: str, Path: Path}
_ARTICLES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def as_dict(settings: Any) -> dict[str, Any]:
    """Return all settings of an instance, ready for JSON."""
    return {
        field.name: str(value) if isinstance(value, Path) else value
        for field in dataclasses.fields(settings)
        if field.init
        for value in [getattr(settings, field.name)]
    }


def label(name: str, settings: Any) -> str:
    """Return the shortest text that selects these settings: `name` with those not at default."""
    changed = [
        f"{field.name}={str(value).lower() if isinstance(value, bool) else value}"
        for field in dataclasses.fields(settings)
        if field.init
        for value in [getattr(settings, field.name)]
        if value != field.default
    ]
    return f"{name}:{','.join(changed)}" if changed else name
