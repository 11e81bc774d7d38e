"""Makes a command of a function that takes an options object: flags, help, `--config`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cllm_bench.core.options import Declared, Kind, build_options, declared
from cllm_bench.core.settings import parse_pairs

OptionsT = TypeVar("OptionsT")

_TYPES: dict[Kind, Any] = {
    Kind.FLAG: bool | None,
    Kind.INTEGER: int | None,
    Kind.NUMBER: float | None,
    Kind.TEXT: str | None,
    Kind.PATH: Path | None,
    Kind.TEXTS: list[str] | None,
    Kind.PATHS: list[Path] | None,
    Kind.PAIRS: list[str] | None,
}
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file of options, such as the config.toml of a stored run. Flags override it; "
        "its keys are the keywords of the Python call.",
    ),
]


def command(
    app: typer.Typer,
    options: type[OptionsT],
    *,
    name: str | None = None,
    short_help: str,
    config: bool = False,
) -> Callable[[Callable[[OptionsT], None]], Callable[[OptionsT], None]]:
    """Register a function as a command whose flags are the options of a class.

    Args:
        app: Where to register it.
        options: The class of its options.
        name: Of the command; by default that of the function.
        short_help: The line in the list of commands.
        config: Whether `--config` reads options from a file.
    """

    def decorate(function: Callable[[OptionsT], None]) -> Callable[[OptionsT], None]:
        def call(**values: Any) -> None:
            file = values.pop("config", None)
            with _interruptible():
                function(build_options(options, _given(options, values), file))

        call.__name__ = function.__name__
        call.__doc__ = function.__doc__
        parameters = [_parameter(each) for each in declared(options)]
        if config:
            parameters.append(_keyword("config", _CONFIG))
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name, short_help=short_help)(call)
        return function

    return decorate


def _given(options: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return what the user gave, by name; typer has None for what he did not."""
    found = {}
    for each in declared(options):
        value = values[each.name]
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        found[each.name] = parse_pairs(value, each.flag) if each.kind is Kind.PAIRS else value
    return found


def _parameter(each: Declared) -> inspect.Parameter:
    if each.option.positional:
        info: Any = typer.Argument(help=_help(each), show_default=False)
    elif each.kind is Kind.FLAG and each.default is True:
        off = f"--no-{each.flag.removeprefix('--')}"
        info = typer.Option(f"{each.flag}/{off}", help=_help(each), show_default=False)
    else:
        info = typer.Option(each.flag, help=_help(each), show_default=False)
    return _keyword(each.name, Annotated[_TYPES[each.kind], info])


def _help(each: Declared) -> str:
    text = each.option.help
    if each.kind in (Kind.TEXTS, Kind.PATHS, Kind.PAIRS) and not each.option.positional:
        text += " Repeatable."
    if each.required and not each.option.positional:
        return f"{text} [required]"
    shown = "on" if each.default is True else each.shown_default
    return text if shown is None else f"{text} [default: {shown}]"


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; what is stored stays: repeat the command to go on", err=True)
        raise typer.Exit(130) from None
