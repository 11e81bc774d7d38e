"""The doors by which plug-ins of every kind come in: entry points and `--plugin` files."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from cllm_bench.errors import UserError, did_you_mean

GROUPS = {
    "method": "cllm_bench.methods",
    "task": "cllm_bench.tasks",
    "recipe": "cllm_bench.recipes",
    "objective": "cllm_bench.objectives",
}
_REQUIRED = {
    "method": ("exactness", "bind"),
    "task": ("metric", "best_score", "samples", "score"),
    "recipe": ("role", "stages"),
    "objective": ("states", "losses"),
}


@dataclasses.dataclass(frozen=True)
class Registered:
    """Something registered under a name: a class, or the reason why there is none."""

    name: str
    origin: str
    cls: type[Any] | None
    error: str | None = None


class Door:
    """All entries of one kind: `method`, `task`, `recipe` or `objective`."""

    def __init__(
        self,
        kind: str,
        sources: Mapping[str, tuple[str, Callable[[], Any]]],
        broken: Sequence[Registered] = (),
    ) -> None:
        self.kind = kind
        self._sources = sources
        self._broken = broken
        self._loaded: dict[str, Registered] = {}

    def names(self) -> list[str]:
        """Return all names, those of broken plugins included."""
        return sorted(self._sources)

    def entries(self) -> list[Registered]:
        """Load and return everything."""
        return [self.entry(name) for name in self.names()]

    def entry(self, name: str) -> Registered:
        """Load one entry; whatever its module raises becomes the reason for being broken."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def get(self, name: str) -> type[Any]:
        """Return the class registered under a name.

        Raises:
            UserError: There is none, or it is broken.
        """
        if name not in self._sources:
            if self._broken:
                reasons = "; ".join(f"{each.origin}: {each.error}" for each in self._broken)
                raise UserError(f"no {self.kind} named '{name}', and a plugin is broken: {reasons}")
            raise UserError(
                f"no {self.kind} named '{name}'; {did_you_mean(name, self._sources)} "
                "(`cllm-bench list` shows all)"
            )
        entry = self.entry(name)
        if entry.cls is None:
            raise UserError(f"{self.kind} '{name}' from {entry.origin} is broken: {entry.error}")
        return entry.cls

    def _load(self, name: str) -> Registered:
        origin, load = self._sources[name]
        try:
            cls = load()
        # Somebody's module may raise anything, SystemExit included, and must break only itself.
        except (Exception, SystemExit) as error:
            return Registered(name, origin, None, _one_line(error))
        problem = _problem(cls, self.kind)
        return Registered(name, origin, None if problem else cls, problem)


class Registry:
    """The doors, opened for one command.

    Args:
        plugins: Files or folders from `--plugin`. Every public class in them that is a method, a
            task, a recipe or an objective is registered under its name in snake case.

    Raises:
        UserError: A plugin path is not there, or takes a name that is taken.
    """

    def __init__(self, plugins: Sequence[str | Path] = ()) -> None:
        found: dict[str, dict[str, tuple[str, Callable[[], Any]]]] = {kind: {} for kind in GROUPS}
        for kind, group in GROUPS.items():
            for point in entry_points(group=group):
                origin = point.dist.name if point.dist else point.value
                found[kind][point.name] = (origin, point.load)
        self.broken: list[Registered] = []
        for path in plugins:
            for kind, name, origin, load in self._plugin(Path(path)):
                if name in found[kind]:
                    raise UserError(
                        f"plugin {origin} registers {kind} '{name}', which {found[kind][name][0]} "
                        "has already: rename the class"
                    )
                found[kind][name] = (origin, load)
        self.methods = Door("method", found["method"], self.broken)
        self.tasks = Door("task", found["task"], self.broken)
        self.recipes = Door("recipe", found["recipe"], self.broken)
        self.objectives = Door("objective", found["objective"], self.broken)

    def baseline(self) -> tuple[str, type[Any]]:
        """Return name and class of the method that declares itself the baseline.

        Raises:
            UserError: None does, or several do.
        """
        found = [entry for entry in self.methods.entries() if getattr(entry.cls, "baseline", False)]
        if len(found) != 1 or found[0].cls is None:
            names = ", ".join(entry.name for entry in found) or "none"
            raise UserError(f"exactly one method must have `baseline = True`; found: {names}")
        return found[0].name, found[0].cls

    def _plugin(self, path: Path) -> Iterator[tuple[str, str, str, Callable[[], Any]]]:
        if not path.exists():
            raise UserError(f"no plugin at '{path}': give a Python file or a folder of them")
        files = sorted(path.glob("[!_]*.py")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"the plugin folder '{path}' has no Python files")
        for file in files:
            try:
                module = _import_file(file)
            except (Exception, SystemExit) as error:
                self.broken.append(Registered(file.stem, str(file), None, _one_line(error)))
                continue
            for name, value in vars(module).items():
                kind = _kind(value, module)
                if kind is not None and not name.startswith("_"):
                    yield kind, _snake_case(name), str(file), partial(_given, value)


def _given(value: object) -> object:
    return value


def _import_file(file: Path) -> ModuleType:
    name = f"cllm_bench_plugin_{re.sub(r'[^a-zA-Z0-9_]', '_', file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"'{file}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up, so it must be known while its body runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _kind(value: object, module: ModuleType) -> str | None:
    if not isinstance(value, type) or value.__module__ != module.__name__:
        return None
    for kind, required in _REQUIRED.items():
        if all(hasattr(value, name) for name in required):
            return kind
    return None


def _problem(cls: object, kind: str) -> str | None:
    if not isinstance(cls, type):
        return f"{cls!r} is not a class"
    missing = [name for name in _REQUIRED[kind] if not hasattr(cls, name)]
    if missing:
        return f"{cls.__name__} is no {kind}: it lacks {', '.join(missing)}"
    if not dataclasses.is_dataclass(cls):
        return f"{cls.__name__} is not a dataclass of settings"
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
