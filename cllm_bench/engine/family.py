"""Model families: which checkpoint plays which role, and the weights when somebody needs them.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm_bench.engine.checkpoint import (
    Checkpoint,
    find_checkpoint,
    hub_checkpoint,
    looks_like_hub_id,
)
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.machine.processes import cores

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cllm_bench.engine.cuda_graphs import Captures
    from cllm_bench.engine.session import Session

BUNDLED = Path(str(files("cllm_bench"))) / "models"
DEFAULT = "mini"
FILE = "family.toml"
_TABLES = ("name", "roles", "run", "recipes")
_RUN_KEYS = ("threads", "data")


@dataclass(frozen=True)
class ModelFamily:
    """Checkpoints by role, and the run's device and precision.

    Attributes:
        name: As tables show it.
        roles: Role to checkpoint.
        runtime: Resolved before any weights are loaded.
        recipes: Settings of training recipes, by recipe, that belong to this family.
        threads: CPU threads that suit the family, of those that are here; 0 is one for each core.
        built_in: Whether it was made for the built-in samples: they are what it is asked, where
            the user names no data; else it is the public data sets.
    """

    name: str
    roles: Mapping[str, Checkpoint]
    runtime: Runtime = field(default_factory=Runtime)
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

    @cached_property
    def _models(self) -> dict[str, PreTrainedModel]:
        return {}

    @cached_property
    def captures(self) -> Captures:
        """What all sessions have captured as graphs."""
        from cllm_bench.engine.cuda_graphs import Captures

        return Captures()

    @cached_property
    def _passes(self) -> PassLog:
        return PassLog()

    @cached_property
    def _parts(self) -> dict[tuple[str, int], Callable[[], Tensor]]:
        return {}

    def model(self, role: str) -> PreTrainedModel:
        """Return a role's weights, loaded once.

        Raises:
            UserError: No such role, no such checkpoint, one whose cache cannot roll back, or one
                with another vocabulary than the target's.
        """
        if role not in self._models:
            from cllm_bench.engine.loading import load_model

            self.refuse_tokenizer(role)
            model = load_model(self.checkpoint(role), self.runtime)
            self._refuse_size(role, model)
            self._models[role] = model
        return self._models[role]

    def refuse_tokenizer(self, role: str) -> None:
        """Refuse a role whose checkpoint has another tokenizer than the target; loads no weights.

        Raises:
            UserError: No such role or checkpoint, or it has another.
        """
        own = self.checkpoint(role)
        if role == "target" or "target" not in self.roles:
            return
        from cllm_bench.engine.loading import refuse_tokenizer

        refuse_tokenizer(own, role, self.checkpoint("target"), self.tokenizer)

    def _refuse_size(self, role: str, model: PreTrainedModel) -> None:
        """Refuse weights that lack an embedding for a token that the target may give.

        A tokenizer may count padding tokens that no model has, so the target's own size tells too.
        """
        if role == "target" or "target" not in self.roles:
            return
        size = int(model.config.get_text_config().vocab_size)
        tokens = min(len(self.tokenizer), self.vocabulary("target"))
        if size < tokens:
            raise UserError(
                f"'{role}' ('{self.checkpoint(role).location}') knows {size} token ids, and "
                f"'target' ('{self.checkpoint('target').location}') has {tokens}; name a "
                f"checkpoint that was made from this target with --role {role}=PATH_OR_HUB_ID"
            )

    def session(self, role: str) -> Session:
        """Return a new session on a role's weights.

        Raises:
            UserError: As for `model`, or the engine is to fuse layers, and it can fuse none.
        """
        model = self.model(role)
        if self.runtime.engine != "eager":
            from cllm_bench.engine.cuda_graphs import GraphSession
            from cllm_bench.engine.fused_layers import lean_layers

            compiled = self.runtime.engine == "compiled"
            if compiled and not lean_layers(model):
                raise UserError(
                    f"--engine compiled fuses layers of the Llama kind, and '{role}' "
                    f"('{self.checkpoint(role).location}') has none; use --engine graph"
                )
            return GraphSession(
                model, self.captures, role=role, passes=self._passes, compiled=compiled
            )
        from cllm_bench.engine.session import Session

        return Session(model, role=role, passes=self._passes)

    def part(self, role: str, rows: int, run: Callable[[], Tensor]) -> Callable[[], None]:
        """Let weights that no session runs, such as Medusa heads, count as passes of a run.

        Args:
            role: What the tables of passes call them.
            rows: Of such a pass.
            run: Runs them on an example, to time a pass by itself.

        Returns:
            What to call for every pass.
        """
        self._parts[role, rows] = run
        return partial(self._passes.add, role, rows, tree=False)

    def parts(self, role: str) -> dict[int, Callable[[], Tensor]]:
        """Return what runs such weights, by rows."""
        return {rows: run for (name, rows), run in self._parts.items() if name == role}

    def drop_parts(self) -> None:
        """Let go of what runs such weights, and with it of the weights."""
        self._parts.clear()

    def take_passes(self) -> dict[str, int]:
        """Return how many passes all weights have run since the last call, by `Shape` as text."""
        return self._passes.take()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The target's tokenizer, which all roles share."""
        from cllm_bench.engine.loading import load_tokenizer

        return load_tokenizer(self.checkpoint("target"))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply, by the tokenizer and the target's generation settings."""
        from cllm_bench.engine.loading import stop_ids

        return stop_ids(self.checkpoint("target"), self.tokenizer)

    @property
    def pad_id(self) -> int:
        """The padding id, or a stop id where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self.stop_ids, default=0)

    def vocabulary(self, role: str) -> int:
        """Return the number of token ids that a role knows, V; loads no weights."""
        from cllm_bench.engine.loading import load_config

        return int(load_config(self.checkpoint(role)).get_text_config().vocab_size)

    def parameters(self, role: str) -> int:
        """Return the number of parameters of a role, tied ones once."""
        return sum(parameter.numel() for parameter in self.model(role).parameters())


def find_family(
    name: str,
    *,
    roles: Mapping[str, str] | None = None,
    runtime: Runtime | None = None,
) -> ModelFamily:
    """Resolve `--model`: a bundled family, a family folder, a checkpoint folder or a Hub id.

    Args:
        name: What the user gave.
        roles: Further roles, or other checkpoints for known ones.
        runtime: Device and precision.

    Raises:
        UserError: It is none of these.
    """
    family = _resolve(name)
    checkpoints = dict(family.roles)
    for role, location in (roles or {}).items():
        checkpoints[role] = find_checkpoint(location, Path.cwd(), f"--role {role}={location}")
    return replace(family, roles=checkpoints, runtime=runtime or Runtime())


def bundled_families() -> list[str]:
    """Return the names of the families that ship in the package."""
    return sorted(file.parent.name for file in BUNDLED.glob(f"*/{FILE}"))


def _resolve(name: str) -> ModelFamily:
    if name in bundled_families():
        return read_family(BUNDLED / name / FILE)
    path = Path(name).expanduser()
    if (path / FILE).is_file():
        return read_family(path / FILE)
    if (path / "config.json").is_file():
        return ModelFamily(path.resolve().name, {"target": Checkpoint(str(path.resolve()))})
    if path.exists():
        raise UserError(f"'{name}' has neither {FILE} nor config.json: it is not a model")
    if looks_like_hub_id(name):
        return ModelFamily(name, {"target": hub_checkpoint(name)})
    raise UserError(
        f"no model '{name}': neither a bundled family ({did_you_mean(name, bundled_families())}) "
        "nor a folder, and a Hub id has the form OWNER/NAME"
    )


def read_family(file: Path) -> ModelFamily:
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
    return ModelFamily(
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
