"""Medusa heads: what they compute, and their files, in the layout of the published ones.

Head k, counted from 0, turns the hidden state at position t into logits for token t + 2 + k: one or
more layers x + SiLU(Linear(x)), then a vocabulary projection, its own or the model's.

A folder, or a repository on the Hub, holds `config.json` and `medusa_lm_head.safetensors` (or
`medusa_lm_head.pt`) with the keys `K.LAYER.linear.weight`, `K.LAYER.linear.bias` and, where the
projections are the heads' own, `K.LAYERS.weight`. How many heads there are is read from these keys:
published configurations name fewer than their files hold.

Shape letters here: K heads, N positions, R choices of a head, H hidden size, V vocabulary.

Source: Cai et al. 2024 (arXiv 2401.10774), section 2.1.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm_bench.core.files import write_atomically
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from cllm_bench.engine.checkpoint import Checkpoint

CONFIG = "config.json"
WEIGHTS = "medusa_lm_head.safetensors"
PICKLED = "medusa_lm_head.pt"


@dataclass(frozen=True)
class Heads:
    """Heads at inference: all of them in the same few operations.

    Weights are stored transposed: states are rows, and the products several times faster on CPUs.

    Attributes:
        layers: Weights and biases of each.
        projections: The heads' own, or none.
        shared: The model's projection.
    """

    layers: Sequence[tuple[Tensor, Tensor]]  # (K, H, H) and (K, 1, H)
    projections: Tensor | None  # (K, H, V)
    shared: nn.Module

    @property
    def parameters(self) -> int:
        """Those that the heads have beside the model's."""
        own = [tensor for layer in self.layers for tensor in layer]
        own += [] if self.projections is None else [self.projections]
        return sum(tensor.numel() for tensor in own)

    def best(
        self,
        hidden: Tensor,  # (H,) of one position, after the model's last norm
        count: int,
    ) -> Tensor:  # (K, R)
        """Return so many tokens that each head deems likeliest, best first."""
        import torch
        from torch.nn.functional import silu

        with torch.inference_mode():
            states = hidden.expand(self.layers[0][1].shape)  # (K, 1, H)
            for weight, bias in self.layers:
                states = states + silu(torch.baddbmm(bias, states, weight))
            if self.projections is None:
                # Of a spread model the projection is where the last layers are.
                logits = self.shared(states).to(states.device)
            else:
                logits = torch.bmm(states, self.projections)
            found: Tensor = logits[:, 0].topk(count).indices
        return found


@dataclass(frozen=True)
class StoredHeads:
    """Heads as they are stored.

    Attributes:
        location: Named in errors.
        weights: By key.
        config: What is noted beside them.
    """

    location: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Number of heads, K."""
        return 1 + max(int(key.partition(".")[0]) for key in self.weights)

    def attach(self, model: PreTrainedModel, count: int) -> Heads:
        """Return the first so many heads, to run on the hidden states of a model.

        Raises:
            UserError: The heads are of another shape than the model.
        """
        import torch

        shared = model.get_output_embeddings()
        layers = sum(key.startswith("0.") and ".linear.weight" in key for key in self.weights)
        own = f"0.{layers}.weight" in self.weights
        self._refuse(shapes_of(self.count, layers, tuple(shared.weight.shape), own=own))

        def stacked(name: str) -> Tensor:
            each = [self.weights[f"{head}.{name}"] for head in range(count)]
            return torch.stack(each).to(model.device, model.dtype)  # (K, …)

        def turned(name: str) -> Tensor:
            return stacked(name).transpose(1, 2).contiguous()

        found = [
            (turned(f"{layer}.linear.weight"), stacked(f"{layer}.linear.bias")[:, None])
            for layer in range(layers)
        ]
        return Heads(found, turned(f"{layers}.weight") if own else None, shared)

    def _refuse(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        found = {key: tuple(tensor.shape) for key, tensor in self.weights.items()}
        for key in sorted(expected.keys() | found.keys()):
            if found.get(key) != expected.get(key):
                raise UserError(
                    f"the Medusa heads in '{self.location}' do not fit the checkpoint: '{key}' has "
                    f"shape {found.get(key, 'none')}, and {expected.get(key, 'none')} would fit; "
                    "name heads that were trained for it, or train some: `cllm-bench train medusa`"
                )


def shapes_of(
    heads: int, layers: int, projection: tuple[int, int], *, own: bool
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight, by key.

    Args:
        heads: How many.
        layers: In each.
        projection: Shape of the model's, (V, H).
        own: Whether the heads have projections of their own.
    """
    width = projection[1]
    found: dict[str, tuple[int, ...]] = {}
    for head in range(heads):
        for layer in range(layers):
            found[f"{head}.{layer}.linear.weight"] = (width, width)
            found[f"{head}.{layer}.linear.bias"] = (width,)
        if own:
            found[f"{head}.{layers}.weight"] = projection
    return found


def read_heads(checkpoint: Checkpoint) -> StoredHeads:
    """Read heads from a folder or from the Hub.

    Raises:
        UserError: There are none, or they cannot be read.
    """
    where = checkpoint.location
    try:
        config, *files = (_fetch(checkpoint, name) for name in (CONFIG, WEIGHTS, PICKLED))
        weights = next((_load(file) for file in files if file is not None), {})
        notes = {} if config is None else json.loads(config.read_text(encoding="utf-8"))
    except Exception as error:  # a damaged file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"cannot read the Medusa heads in '{where}': {reason}") from None
    if not weights or not all(key.partition(".")[0].isdecimal() for key in weights):
        raise UserError(
            f"'{where}' holds no Medusa heads, in {WEIGHTS} or {PICKLED}; train some with "
            "`cllm-bench train medusa`"
        )
    return StoredHeads(where, weights, notes)


def _fetch(checkpoint: Checkpoint, name: str) -> Path | None:
    """Return a file of a folder or a repository, or none where it has no such file."""
    from transformers.utils import cached_file

    found = cached_file(
        checkpoint.location,
        name,
        revision=checkpoint.revision,
        # A repository without it is one thing, one that cannot be reached another.
        _raise_exceptions_for_missing_entries=name == CONFIG,
    )
    return None if found is None else Path(found)


def _load(file: Path) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    if file.name == WEIGHTS:
        return load_file(file)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def write_heads(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write heads into a folder; what its configuration says already stays.

    Args:
        folder: It may hold a model as well.
        weights: By key; rounded to bfloat16.
        config: What to note.
    """
    import torch
    from safetensors.torch import save_file

    rounded = {key: each.to(torch.bfloat16).contiguous() for key, each in weights.items()}
    save_file(rounded, folder / WEIGHTS)
    file = folder / CONFIG
    there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_atomically(file, json.dumps({**config, **there}, indent=2) + "\n")


def new_heads(
    count: int,
    projection: Tensor,  # (V, H)
    *,
    own: bool,
) -> nn.Module:
    """Return heads to train: hidden states (N, H) go in, and for each head comes out a tensor.

    That is logits (N, V), or states (N, H) where the projection is shared. At first every head says
    what the model says: its layer adds nothing yet.

    Args:
        count: How many.
        projection: The model's; what the heads' own ones start from.
        own: Whether they get their own.
    """
    import torch
    from torch import nn
    from torch.nn.functional import silu

    vocabulary, width = projection.shape

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

        def forward(self, states: Tensor) -> Tensor:
            return states + silu(self.linear(states))

    class ParallelHeads(nn.ModuleList):
        def forward(self, hidden: Tensor) -> list[Tensor]:
            return [head(hidden) for head in self]

    def head() -> nn.Sequential:
        if not own:
            return nn.Sequential(Layer())
        last = nn.Linear(width, vocabulary, bias=False)
        with torch.no_grad():
            last.weight.copy_(projection)
        return nn.Sequential(Layer(), last)

    return ParallelHeads(head() for _ in range(count)).to(projection.device)
