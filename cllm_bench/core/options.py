"""Options that are declared once: for their flags, their keywords and their configuration file.

An options class is a frozen dataclass whose fields are annotated with `Option`. The command line
makes flags of it, `takes` gives a Python call its keywords and its documentation, and `read_config`
and `write_config` translate it from and to TOML.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from cllm_bench.core.files import reading
from cllm_bench.errors import UserError, did_you_mean

P = ParamSpec("P")
OptionsT = TypeVar("OptionsT")
ResultT = TypeVar("ResultT")

StrPath = str | Path


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """Describes a field of an options class.

    Attributes:
        help: A sentence or two for the user.
        flag: Name of the flag; by default `--` and the name of the field.
        positional: Whether the command line takes it as an argument without a flag.
        default: What the help shows where the default value itself says nothing.
        python_only: Whether it is a keyword of the Python call alone, such as a callback.
    """

    help: str
    flag: str | None = None
    positional: bool = False
    default: str | None = None
    python_only: bool = False


class Kind(Enum):
    """What an option holds; the value says it to a user."""

    FLAG = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "a string"
    PATH = "a path, as a string"
    TEXTS = "a list of strings"
    PATHS = "a list of paths, as strings"
    PAIRS = "a table of strings"


_SCALARS = {bool: Kind.FLAG, int: Kind.INTEGER, float: Kind.NUMBER, str: Kind.TEXT}


class Declared(NamedTuple):
    """One option of an options class.

    Attributes:
        name: Of the field, of the keyword and of the key.
        option: Its description.
        kind: What it holds.
        default: Its default value; `dataclasses.MISSING` for none.
    """

    name: str
    option: Option
    kind: Kind
    default: Any

    @property
    def flag(self) -> str:
        """The name on the command line."""
        if self.option.positional:
            return self.name.upper()
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def required(self) -> bool:
        """Whether a value must be given; a list or a table may be empty."""
        may_be_empty = self.kind in (Kind.TEXTS, Kind.PATHS, Kind.PAIRS)
        return self.default is dataclasses.MISSING and not may_be_empty

    @property
    def shown_default(self) -> str | None:
        """The default as the help shows it."""
        if self.option.default is not None:
            return self.option.default
        empty = self.default is None or self.default is dataclasses.MISSING
        return None if empty or self.default is False or self.default == () else str(self.default)


def declared(options: type[Any]) -> list[Declared]:
    """Return the options of a class in order, those of Python alone left out."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for field in dataclasses.fields(options):
        annotation, option = _described(hints[field.name])
        if option is not None and not option.python_only:
            found.append(Declared(field.name, option, _kind(annotation), field.default))
    return found


def _described(annotation: Any) -> tuple[Any, Option | None]:
    if get_origin(annotation) is not Annotated:
        return annotation, None
    plain, *extras = get_args(annotation)
    return plain, next((extra for extra in extras if isinstance(extra, Option)), None)


def _kind(annotation: Any) -> Kind:
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    (first, *more) = (member for member in members if member is not type(None))
    if get_origin(first) is Sequence:
        return Kind.PATHS if Path in get_args(get_args(first)[0]) else Kind.TEXTS
    if get_origin(first) is Mapping:
        return Kind.PAIRS
    return Kind.PATH if Path in (first, *more) else _SCALARS[first]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


class Options:
    """The base of options classes: converts paths and lists, as callers give them.

    A single string where a list belongs becomes a list of one: `methods="cllm"` means that method.
    """

    def __post_init__(self) -> None:
        for each in declared(type(self)):
            value = getattr(self, each.name)
            if each.kind in (Kind.TEXTS, Kind.PATHS):
                value = (value,) if isinstance(value, str | Path) else tuple(value)
            if each.kind is Kind.PATHS:
                value = tuple(map(Path, value))
            if each.kind is Kind.PATH and value is not None:
                value = Path(value)
            object.__setattr__(self, each.name, value)


def read_config(file: Path, options: type[Any]) -> dict[str, Any]:
    """Read a configuration file.

    Args:
        file: TOML, whose keys are the names of the options.
        options: Their class.

    Returns:
        The values that it holds, by name.

    Raises:
        UserError: The file cannot be read, has an unknown key, or a value of the wrong kind.
    """
    with reading(file):
        data = file.read_bytes()
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid TOML: {error}") from None
    known = {each.name: each for each in declared(options)}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"{file}: unknown key '{key}'; {did_you_mean(key, known)}")
        if not _fits(value, known[key].kind):
            raise UserError(f"{file}: {key} = {value!r} must be {known[key].kind.value}")
    return {
        key: dict(value) if known[key].kind is Kind.PAIRS else value for key, value in table.items()
    }


def _fits(value: Any, kind: Kind) -> bool:
    match kind:
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        case Kind.NUMBER:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case Kind.TEXT | Kind.PATH:
            return isinstance(value, str)
        case Kind.TEXTS | Kind.PATHS:
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case Kind.PAIRS:
            return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def write_config(options: Any) -> str:
    """Return the options as TOML; those without a value are left out."""
    import tomli_w

    table: dict[str, Any] = {}
    for each in declared(type(options)):
        value = getattr(options, each.name)
        if value is None:
            continue
        if each.kind in (Kind.TEXTS, Kind.PATHS):
            table[each.name] = list(map(str, value))
        elif each.kind is Kind.PAIRS:
            table |= {each.name: dict(value)} if value else {}
        else:
            table[each.name] = str(value) if each.kind is Kind.PATH else value
    return tomli_w.dumps(table)


def build_options(
    options: type[OptionsT], given: Mapping[str, Any], config: Path | None = None
) -> OptionsT:
    """Make an options object from what the command line gave, over a configuration file.

    Args:
        options: Its class.
        given: The values given as flags, by name. They replace those of the file; a table, such as
            that of the roles, is replaced key by key.
        config: The file.

    Raises:
        UserError: The file does not fit the class, or an option without a default is missing.
    """
    values = {} if config is None else read_config(config, options)
    for each in declared(options):
        if each.name in given and each.kind is Kind.PAIRS:
            values[each.name] = {**values.get(each.name, {}), **given[each.name]}
        elif each.name in given:
            values[each.name] = given[each.name]
        elif each.kind in (Kind.TEXTS, Kind.PATHS):
            values.setdefault(each.name, ())
        elif each.required and each.name not in values:
            raise UserError(f"{each.flag} is missing: {_lowered(each.option.help)}")
    return options(**values)


def _lowered(sentence: str) -> str:
    first = sentence.split(". ")[0].rstrip(".")
    return first[:1].lower() + first[1:] if first[1:2].islower() or first[1:2] == " " else first


def takes(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[OptionsT], ResultT]], Callable[P, ResultT]]:
    """Give a function of an options object the keywords of its class, and their documentation.

    In its docstring the line about `options` is replaced by the options and their help.
    """

    def decorate(function: Callable[[OptionsT], ResultT]) -> Callable[P, ResultT]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> ResultT:
            return function(options(*args, **kwargs))

        call.__signature__ = _signature(function, options)  # type: ignore[attr-defined]
        call.__doc__ = _documented(function.__doc__ or "", options)
        return call

    return decorate


def _signature(function: Callable[..., Any], options: Any) -> inspect.Signature:
    hints = get_type_hints(options, include_extras=True)
    signature = inspect.signature(options)
    plain = [
        each.replace(annotation=_described(hints[each.name])[0])
        for each in signature.parameters.values()
    ]
    result = inspect.signature(function).return_annotation
    return signature.replace(parameters=plain, return_annotation=result)


def _documented(doc: str, options: Any) -> str:
    hints = get_type_hints(options, include_extras=True)

    def listed(found: re.Match[str]) -> str:
        indent = found[1]
        lines = []
        for field in dataclasses.fields(options):
            _, option = _described(hints[field.name])
            if option is not None:
                text = f"{field.name}: {option.help}"
                further = f"{indent}    "
                lines.append(
                    textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=further)
                )
        return "\n".join(lines)

    return re.sub("^( +)options: .*$", listed, doc, count=1, flags=re.MULTILINE)
