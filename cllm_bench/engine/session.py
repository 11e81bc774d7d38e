"""The KV cache of one sequence, and the forward passes over it.

Shape letters, used throughout the project:
    B batch (always 1 here) · T new tokens of a pass · K drafted tokens · L cached tokens
    P prompt tokens · V vocabulary · H hidden size
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cllm_bench.engine.attention import knows_lower_right
from cllm_bench.engine.cache import PreallocatedCache, is_spread
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.positions import attention_window, positions
from cllm_bench.errors import UserError

INITIAL_CAPACITY = 1024
ALIGNMENT = 8  # elements, of masks: see `_Masks`


Body = Callable[[Tensor], Tensor]  # see `Session.program`


class Output:
    """The output of a forward pass.

    Attributes:
        logits: Of every row, (T, V), on the device.
        hidden: States of every row behind the last norm, (T, H); only if requested.
    """

    def __init__(self, logits: Tensor, hidden: Tensor | None = None) -> None:
        self.logits = logits
        self.hidden = hidden

    @property
    def choices(self) -> Tensor:  # (T,)
        """The likeliest token behind each row, on the device."""
        return self.logits.argmax(-1)

    def tokens(self) -> list[int]:
        """Return the likeliest token behind each row; waits for the device."""
        found: list[int] = self.choices.tolist()
        return found


class Program(Protocol):
    """A function of passes and tensors, run on integers; made by `Session.program`."""

    def __call__(self, numbers: Sequence[int]) -> Tensor:  # (N,)
        """Run it, and leave the result on the device until the next call."""
        ...

    def read(self, numbers: Sequence[int]) -> list[int]:
        """Run it, and return the result; waits for the device."""
        ...


class _PlainProgram:
    """A program that is run operation by operation."""

    def __init__(self, session: Session, body: Body) -> None:
        self._session = session
        self._body = body

    @torch.inference_mode()
    def __call__(self, numbers: Sequence[int]) -> Tensor:  # (N,)
        """Run it, and leave the result on the device until the next call."""
        return self._body(self._session.upload(numbers))

    def read(self, numbers: Sequence[int]) -> list[int]:
        """Run it, and return the result; waits for the device."""
        found: list[int] = self(numbers).tolist()
        return found


class Session:
    """One sequence in a model: committed tokens, and forward passes over tentative ones.

    `forward` runs new tokens after the committed ones; `keep` commits some of them. Rows that are
    not kept are dropped: rolling back changes a number and copies nothing.

    Args:
        model: The model, prepared for inference.
        capacity: The number of tokens that the cache can hold at first; it grows.
        role: The role of the model in its family.
        passes: Where the calls of `forward` are counted.

    Attributes:
        device: The device of the model; of one that is spread over several, of its first layers.
        length: The number of committed tokens, L.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        capacity: int = INITIAL_CAPACITY,
        role: str = "target",
        passes: PassLog | None = None,
    ) -> None:
        self._model = model
        self._role = role
        self._passes = passes or PassLog()
        self.device = model.device
        self._positions_known = positions(model.config)
        self._cache = PreallocatedCache(
            model.config.get_text_config().num_hidden_layers, capacity, spread=is_spread(model)
        )
        self._pass_cache = {cache_argument(model): self._cache}
        self._masks = _Masks(model.device, model.dtype)
        self._lower_right = knows_lower_right(model)
        self._positions = torch.arange(capacity, device=model.device)[None]
        self.length = 0
        self._pending = 0

    @property
    def vocabulary(self) -> int:
        """The number of token ids that the model knows, V."""
        return int(self._model.config.get_text_config().vocab_size)

    @property
    def room(self) -> int:
        """The number of positions that are left; a pass cannot have more rows."""
        known = self._positions_known
        return sys.maxsize if known is None else known - self.length

    @torch.inference_mode()
    def prefill(
        self,
        prompt_ids: Tensor,  # (P,)
        *,
        hidden: bool = False,
    ) -> Output:
        """Start anew: run and commit the prompt, and return its last row only (T = 1)."""
        self.length = 0
        self._cache.commit(0)
        output = self._run(prompt_ids, None, None, last_only=True, hidden=hidden)
        self.keep(prompt_ids.numel())
        self._passes.prefilled(self._role)
        return output

    @torch.inference_mode()
    def forward(
        self,
        ids: Tensor | Sequence[int],  # (T,)
        *,
        depth: Tensor | None = None,  # (T,)
        mask: Tensor | None = None,  # (T, T) bool
        hidden: bool = False,
    ) -> Output:
        """Run new tokens after the committed ones, without committing them.

        Args:
            ids: The token ids.
            depth: The position of each row, counted from the first uncommitted position; by default
                a chain, 0 … T-1.
            mask: True where a new row (first axis) attends to a new row (second axis), itself
                included; all rows attend to the committed tokens. By default causal, as in a chain.
            hidden: Whether to return hidden states too.
        """
        output = self._run(ids, depth, mask, last_only=False, hidden=hidden)
        self._count(self._pending, tree=mask is not None)
        return output

    def program(
        self, body: Body, *, rows: int, results: int, state: Sequence[Tensor] = ()
    ) -> Program:
        """Return a function that an engine may capture and launch as a whole.

        The body gets integers, (N,) on the device, and returns integers. It may call `forward`
        with ids that lie on the device, and `keep` with a number; whatever else differs from call
        to call must be among its integers or in `state`. It is run as it is here.

        Args:
            body: The function.
            rows: Rows that its passes have in all.
            results: Integers that it returns.
            state: Tensors that it reads and then overwrites.
        """
        del rows, results, state
        return _PlainProgram(self, body)

    def upload(self, numbers: Sequence[int]) -> Tensor:  # (N,)
        """Return integers on the device; nothing waits for it."""
        found = torch.tensor(numbers, dtype=torch.long, pin_memory=self.device.type == "cuda")
        return found.to(self.device, non_blocking=True)

    def _count(self, rows: int, *, tree: bool) -> None:
        self._passes.add(self._role, rows, tree)

    def keep(self, rows: int | Tensor) -> None:
        """Commit rows of the last pass and drop the others.

        Args:
            rows: The number of leading rows to commit, or the indices of the rows, (K,) integers.

        Raises:
            ValueError: The last pass had fewer rows.
        """
        count = rows if isinstance(rows, int) else rows.numel()
        if count > self._pending:
            raise ValueError(f"cannot keep {count} rows of a pass of {self._pending}")
        if not isinstance(rows, int):
            self._gather(rows)
        self.length += count
        self._cache.commit(self.length)
        self._pending = 0

    @torch.inference_mode()
    def _gather(self, rows: Tensor) -> None:
        self._cache.gather(rows.to(self.device))

    def _run(
        self,
        ids: Tensor | Sequence[int],
        depth: Tensor | None,
        mask: Tensor | None,
        *,
        last_only: bool,
        hidden: bool,
    ) -> Output:
        tokens = ids.to(self.device) if isinstance(ids, Tensor) else self.upload(ids)
        rows = tokens.numel()
        self._reserve(self.length + rows)
        positions = self._positions[:, self.length : self.length + rows]
        if depth is not None:
            positions = (depth.to(self.device) + self.length)[None]
        with last_states(self._model, wanted=hidden) as found:
            output = self._model(
                input_ids=tokens.view(1, rows),
                attention_mask=self._attention_mask(rows, mask),
                position_ids=positions,
                **self._pass_cache,
                use_cache=True,
                logits_to_keep=1 if last_only else 0,
            )
        self._pending = rows
        # Those of a spread model are where its last layers are.
        states = found[0][-1 if last_only else 0 :].to(self.device) if found else None
        return Output(output.logits[0], states)

    def _attention_mask(self, rows: int, mask: Tensor | None) -> Tensor | None:
        """Return the additive (1, 1, T, L + T) mask, or none where plain causal attention serves.

        Boolean four-dimensional masks are silently wrong with transformers' eager attention, hence
        additive ones. No mask at all keeps the fast kernels: for a prefill, for single rows, and
        for chains where the kernel knows that the last row is the one that sees everything.
        """
        if mask is not None:
            return self._masks.tree(mask.to(self.device), self.length)
        if rows == 1 or self.length == 0 or self._lower_right:
            return None
        return self._masks.chain(rows, self.length)

    def _reserve(self, tokens: int) -> None:
        if tokens - self.length > self.room:
            known = self._positions_known
            room = f"the model has room for {known}"
            if known == attention_window(self._model.config):
                room = f"the attention of '{self._role}' has a window of {known}"
            raise UserError(
                f"the sequence reaches {tokens} tokens and {room}: shorten the prompt or lower "
                "max_new_tokens"
            )
        self._cache.reserve(tokens)
        if self._positions.shape[1] < self._cache.capacity:
            self._positions = torch.arange(self._cache.capacity, device=self.device)[None]


@contextmanager
def last_states(model: PreTrainedModel, *, wanted: bool) -> Iterator[list[Tensor]]:  # each (T, H)
    """Collect the hidden states behind the last norm, of each pass inside, where they are wanted.

    `output_hidden_states` would do it too, but leaves hooks on all layers: every later pass of the
    model, whoever asks for it, would take a few per cent longer.
    """
    found: list[Tensor] = []
    if not wanted:
        yield found
        return
    hook = model.base_model.register_forward_hook(
        lambda _module, _inputs, output: found.append(output.last_hidden_state[0])
    )
    try:
        yield found
    finally:
        hook.remove()


class _Masks:
    """Additive masks that every kernel accepts; those of chains are views of triangles built once.

    A chain of T rows after L cached tokens may see column j from row i where j <= L + i:

              columns 0 … L-1 (committed)   L  L+1  L+2
        row 0         0 … 0                 0  -inf -inf
        row 1         0 … 0                 0   0   -inf
        row 2         0 … 0                 0   0    0

    Sliding a window over one wide triangle gives this for every L and T without a copy. CUDA's
    memory-efficient kernel demands row strides of 8 elements and addresses of 16 bytes, so there
    are eight triangles, each one column further: a window over one of them begins at a multiple
    of 8. What is run on a CPU is what runs on CUDA.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._rows = 0
        self._length = 0
        self._triangles = torch.empty(0, 0, 0)

    def chain(self, rows: int, length: int) -> Tensor:  # (1, 1, T, L + T)
        """Return the mask of a chain."""
        if rows > self._rows or length > self._length:
            self._rows = max(64, _power_of_two(rows), self._rows)
            self._length = max(INITIAL_CAPACITY, _power_of_two(length), self._length)
            self._triangles = self._shifted()
        shift = length % ALIGNMENT
        end = self._length + shift + rows
        return self._triangles[shift, :rows, end - rows - length : end][None, None]

    def tree(self, visible: Tensor, length: int) -> Tensor:  # (1, 1, T, L + T)
        """Return the mask for rows that see all L committed tokens and each other as given."""
        rows = visible.shape[0]
        mask = self._zeros(rows, length + rows + -(length + rows) % ALIGNMENT)
        mask[:, length : length + rows].masked_fill_(~visible, torch.finfo(self._dtype).min)
        return mask[:, : length + rows][None, None]

    def _shifted(self) -> Tensor:  # (ALIGNMENT, rows, columns)
        triangles = self._zeros(ALIGNMENT, self._rows, self._length + self._rows + ALIGNMENT)
        rows = torch.arange(self._rows, device=self._device)[:, None]
        columns = torch.arange(triangles.shape[-1], device=self._device)
        for shift in range(ALIGNMENT):
            hidden = columns > rows + (self._length + shift)
            triangles[shift].masked_fill_(hidden, torch.finfo(self._dtype).min)
        return triangles

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self._device, dtype=self._dtype)


def cache_argument(model: nn.Module) -> str:
    """Return what the model calls its cache: transformers renamed it in release 5.24."""
    inner = getattr(model, "module", model)  # of DistributedDataParallel
    known = inspect.signature(inner.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
