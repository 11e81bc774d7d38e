"""Describes model families: which checkpoint plays which role, and what suits the family.

A family is a folder with a `family.toml`:

    name = "mine"
    [roles]
    target = "target"                 # a folder beside the file, in Hugging Face's layout,
    cllm = "someone/some-model"       # or an id on the Hub, with @REVISION if wanted
    [run]                             # optional
    threads = 1                       # CPU threads that suit it, where the user names none
    data = "built-in"                 # what it is asked, where --data says nothing; else "hub"
    [recipes.target]                  # optional: settings of a recipe for this family
    layers = 8
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from cllm_bench.engine.checkpoint import (
    Checkpoint,
    find_checkpoint,
    hub_checkpoint,
    looks_like_hub_id,
)
from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.machine.processes import cores

BUNDLED = Path(str(files("cllm_bench"))) / "models"
DEFAULT = "mini"
FILE = "family.toml"
_TABLES = ("name", "roles", "run", "recipes")
_RUN_KEYS = ("threads", "data")


@dataclass(frozen=True)
class FamilyDescription:
    """What a `family.toml` says; no weights.

    Attributes:
        name: The name that tables show.
        roles: The checkpoint of each role.
        recipes: Settings of training recipes, by recipe, that belong to this family.
        threads: The number of CPU threads that suits the family, at most those that are here; 0
            means one per core.
        built_in: Whether the family was made for the built-in samples: they are its questions
            where the user names no data; else it is the public data sets.
    """

    name: str
    roles: Mapping[str, Checkpoint]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = 0
    built_in: bool = False

    def checkpoint(self, role: str) -> Checkpoint:
        """Return where a role's weights are.

        Raises:
            UserError: The family has no such role.
        """
        if role not in self.roles:
            raise UserError(
                f"family '{self.name}' has no '{role}' checkpoint (it has: "
                f"{', '.join(self.roles) or 'none'}); train one with a recipe for that role "
                f"(`cllm-bench list`), or name one with --role {role}=PATH_OR_HUB_ID"
            )
        return self.roles[role]


def describe_family(name: str, roles: Mapping[str, str] | None = None) -> FamilyDescription:
    """Resolve `--model`: a bundled family, a family folder, a checkpoint folder or a Hub id.

    Args:
        name: What the user gave.
        roles: Further roles, or other checkpoints for known ones.

    Raises:
        UserError: It is none of these.
    """
    family = _resolve(name)
    checkpoints = dict(family.roles)
    for role, location in (roles or {}).items():
        checkpoints[role] = find_checkpoint(location, Path.cwd(), f"--role {role}={location}")
    return replace(family, roles=checkpoints)


def bundled_families() -> list[str]:
    """Return the names of the families that ship in the package."""
    return sorted(file.parent.name for file in BUNDLED.glob(f"*/{FILE}"))


def _resolve(name: str) -> FamilyDescription:
    if name in bundled_families():
        return read_family(BUNDLED / name / FILE)
    path = Path(name).expanduser()
    if (path / FILE).is_file():
        return read_family(path / FILE)
    if (path / "config.json").is_file():
        return FamilyDescription(path.resolve().name, {"target": Checkpoint(str(path.resolve()))})
    if path.exists():
        raise UserError(f"'{name}' has neither {FILE} nor config.json: it is not a model")
    if looks_like_hub_id(name):
        return FamilyDescription(name, {"target": hub_checkpoint(name)})
    raise UserError(
        f"no model '{name}': neither a bundled family ({did_you_mean(name, bundled_families())}) "
        "nor a folder, and a Hub id has the form OWNER/NAME"
    )


def read_family(file: Path) -> FamilyDescription:
    """Read a `family.toml`.

    Raises:
        UserError: It is malformed, or names a checkpoint that is not there.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}") from None
    _refuse_unknown(file, "", table, _TABLES)
    for name, known in (("run", _RUN_KEYS), ("recipes", None)):
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise UserError(f"{file}: {name} = {inner!r} must be a table, [{name}]")
        if known is not None:
            _refuse_unknown(file, f" under [{name}]", inner, known)
    roles = table.get("roles", {})
    if not isinstance(roles, dict) or not all(isinstance(value, str) for value in roles.values()):
        raise UserError(f"{file}: [roles] must give each role a path or a Hub id")
    checkpoints = {
        role: find_checkpoint(location, file.parent, f"{file}: role '{role}'")
        for role, location in roles.items()
    }
    name = str(table.get("name", file.parent.resolve().name))
    run = table.get("run", {})
    threads, data = run.get("threads", 0), run.get("data", "hub")
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise UserError(f"{file}: threads = {threads!r} under [run] is not a number of threads")
    if data not in ("built-in", "hub"):
        raise UserError(f"{file}: data = {data!r} under [run] is neither 'built-in' nor 'hub'")
    return FamilyDescription(
        name,
        checkpoints,
        recipes=table.get("recipes", {}),
        threads=min(threads, cores()),
        built_in=data == "built-in",
    )


def _refuse_unknown(file: Path, place: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{file}: unknown key '{key}'{place}; {did_you_mean(key, known)}")
