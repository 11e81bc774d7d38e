"""One reader for everything stored: JSON values become dataclasses, or one line that says why not.

The types are plain dataclasses, cheap to make while a run measures; pydantic reads them back. Their
docstrings describe every key, and docs/file-formats.md is made from these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter
from pydantic_core import ErrorDetails, SchemaValidator, ValidationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

_WANTED = {
    "int_type": "an integer",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "is_instance_of": "a text",
    "tuple_type": "a list",
    "arguments_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "literal_error": "one of {expected}",
}
_NO_SCHEMAS = ("default", "metadata", "config", "serialization")  # keys of a core schema


def parse(kind: type[T], value: Any) -> T:
    """Read a JSON value, as `json.loads` gives it.

    Unknown keys are ignored, as a later version may have written them; what an earlier version did
    not store has its default. A class may have a static method `from_earlier`, which turns an
    object of an earlier version into one of this version.

    Raises:
        ValueError: A key is missing or its value is of the wrong kind; the message names it.
    """
    validate, upgrade = _reader(cast(Hashable, kind))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    try:
        found: T = validate(value if upgrade is None else upgrade(value))
    except ValidationError as error:
        raise ValueError(_reason(error.errors(include_url=False)[0])) from None
    return found


def to_json(stored: DataclassInstance) -> dict[str, Any]:
    """Return a dataclass as JSON has it: objects for dataclasses, lists for tuples."""
    return {each.name: _plain(getattr(stored, each.name)) for each in fields(stored)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


@cache
def _reader(kind: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any] | None]:
    validator = SchemaValidator(_for_json(TypeAdapter(kind).core_schema))
    return validator.validate_python, getattr(kind, "from_earlier", None)


def _for_json(schema: Any) -> Any:
    """Return a core schema that takes lists for tuples and objects for dataclasses, no more.

    A strict schema would refuse these two, and pydantic's own JSON parser refuses lone surrogates,
    which replies may hold; so values are parsed by `json` and their kinds checked here.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(map(_for_json, schema))
    if not isinstance(schema, dict):
        return schema
    walked = {key: each if key in _NO_SCHEMAS else _for_json(each) for key, each in schema.items()}
    match walked.get("type"):
        case "int" | "bool":
            walked["strict"] = True
        case "float":
            walked |= {"strict": True, "allow_inf_nan": False}
        case "str":
            return {"type": "is-instance", "cls": str}
    return walked


def _reason(error: ErrorDetails) -> str:
    """Say in one line what is wrong, such as `'drafted[3]' is 2.5, not an integer`."""
    name = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]
    ).removeprefix(".")
    kind, given = error["type"], error["input"]
    if kind.startswith("missing"):
        return f"no '{name}'"
    if kind not in _WANTED:
        return f"'{name}': {error['msg'].removeprefix('Value error, ')}"
    wanted = _WANTED[kind].format_map(error.get("ctx", {}))
    return f"'{name}' is {given!r:.60}, not {wanted.replace(chr(39), '')}"
