"""Model families with their weights: sessions, passes and what a method asks of a family."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.family_file import FamilyDescription, describe_family
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.runtime import EngineChoice, ProductChoice, Runtime
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cllm_bench.engine.checkpoint import Quantisation
    from cllm_bench.engine.cuda_graphs import Captures
    from cllm_bench.engine.session import Session


class ModelFamily:
    """The models of a family, loaded when they are first used and kept from then on.

    Args:
        description: The checkpoint of each role.
        runtime: Device and precision, resolved before any weights are loaded.
    """

    def __init__(self, description: FamilyDescription, runtime: Runtime | None = None) -> None:
        self.description = description
        self.runtime = runtime or Runtime()

    def unloaded(
        self,
        *,
        roles: Mapping[str, Checkpoint] | None = None,
        runtime: Runtime | None = None,
    ) -> ModelFamily:
        """Return the same family without any weights loaded.

        Args:
            roles: Further roles, or other checkpoints for known ones.
            runtime: Another device or precision.
        """
        known = {**self.description.roles, **(roles or {})}
        return ModelFamily(replace(self.description, roles=known), runtime or self.runtime)

    @property
    def name(self) -> str:
        """The name that tables show."""
        return self.description.name

    @property
    def roles(self) -> Mapping[str, Checkpoint]:
        """The checkpoint of each role."""
        return self.description.roles

    def checkpoint(self, role: str) -> Checkpoint:
        """Return where a role's weights are.

        Raises:
            UserError: The family has no such role.
        """
        return self.description.checkpoint(role)

    @cached_property
    def _models(self) -> dict[str, PreTrainedModel]:
        return {}

    @cached_property
    def engines(self) -> dict[str, EngineChoice]:
        """The engines that roles have by now; what is entered before a session is opened holds."""
        return {}

    @cached_property
    def products(self) -> dict[str, ProductChoice]:
        """The kernels of products that roles have by now; what is entered before holds."""
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
            if self.runtime.products == "auto":
                from cllm_bench.engine.products.trial import choose_products

                self.products[role] = choose_products(model, self.products.values())
            self._models[role] = model
        return self._models[role]

    @cached_property
    def _plain_models(self) -> dict[str, PreTrainedModel]:
        return {}

    def plain_model(self, role: str) -> PreTrainedModel:
        """Return a role's weights as transformers itself runs them, loaded once.

        All rows of the library share them: what one of them sets there, others would run with.

        Raises:
            UserError: As for `load_weights`.
        """
        if role not in self._plain_models:
            from cllm_bench.engine.loading import load_plain_model

            model = load_plain_model(self.checkpoint(role), self.runtime)
            self._plain_models[role] = model
        return self._plain_models[role]

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
            UserError: As for `model`, or the engine that is named cannot run it.
        """
        return self._open(role, self.engine(role).engine)

    def engine(self, role: str) -> EngineChoice:
        """Return the engine of a role's passes: the user's choice, or the fastest that is right.

        Raises:
            UserError: As for `model`.
        """
        if role not in self.engines:
            from cllm_bench.engine.clock import device_clock
            from cllm_bench.engine.selection import fastest_engine

            if self.runtime.engine == "auto":
                clock = device_clock(self.runtime.device)
                found = fastest_engine(partial(self._open, role), clock)
                self._passes.take()
            else:
                found = EngineChoice(engine=self.runtime.engine)
            self.engines[role] = found
        return self.engines[role]

    def _open(self, role: str, engine: str) -> Session:
        model = self.model(role)
        if engine == "eager":
            from cllm_bench.engine.session import Session

            return Session(model, role=role, passes=self._passes)
        from cllm_bench.engine.cuda_graphs import GraphSession
        from cllm_bench.engine.fused_layers import fused_layers_of

        compiled = engine == "compiled"
        if compiled and not fused_layers_of(model):
            raise UserError(
                f"--engine compiled compiles fused layers, and '{role}' "
                f"('{self.checkpoint(role).location}') has none; use --engine graph"
            )
        return GraphSession(model, self.captures, role=role, passes=self._passes, compiled=compiled)

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

    def release(self) -> None:
        """Let go of all weights, to make room for others; one that is used again is loaded again.

        A session that somebody keeps keeps its weights.
        """
        import torch

        self._models.clear()
        self._plain_models.clear()
        self.drop_parts()
        gc.collect()  # hooks on a model hold what holds it
        if self.runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()

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

    def window(self, role: str) -> int | None:
        """Return how far back the attention of a role sees, where not to the first token.

        Tells it without loading weights; in tokens, which no sequence here exceeds.
        """
        from cllm_bench.engine.loading import load_config
        from cllm_bench.engine.positions import attention_window

        return attention_window(load_config(self.checkpoint(role)))

    @property
    def loaded(self) -> Mapping[str, PreTrainedModel]:
        """The models that are loaded by now, by role."""
        return self._models

    def parameters(self, role: str) -> int:
        """Return the number of parameters of a role, tied ones once, quantised ones unpacked."""
        from cllm_bench.engine.checkpoint import is_quantised
        from cllm_bench.engine.memory import skeleton

        model = self.model(role)
        if is_quantised(model):  # several in one number, or in tensors that are no parameters
            model = skeleton(model.config, model.dtype)
        return sum(parameter.numel() for parameter in model.parameters())

    def quantised(self, role: str) -> Quantisation | None:
        """Return what a role with quantised weights is run as; None where they are ordinary."""
        from cllm_bench.engine.checkpoint import Quantisation, declared_kind
        from cllm_bench.engine.loading import load_config
        from cllm_bench.engine.memory import skeleton
        from cllm_bench.machine.roofline import weight_bytes

        kind = declared_kind(load_config(self.checkpoint(role)))
        if kind is None:
            return None
        model = self.model(role)
        plain = weight_bytes(skeleton(model.config, model.dtype))
        dtype = str(model.dtype).removeprefix("torch.")
        return Quantisation(kind, dtype, expanded=weight_bytes(model) >= plain)


def find_family(
    name: str,
    *,
    roles: Mapping[str, str] | None = None,
    runtime: Runtime | None = None,
) -> ModelFamily:
    """Resolve `--model`, and make its models ready to be loaded.

    Args:
        name: What the user gave; see `describe_family`.
        roles: Further roles, or other checkpoints for known ones.
        runtime: Device and precision.

    Raises:
        UserError: There is no such model.
    """
    return ModelFamily(describe_family(name, roles), runtime)
