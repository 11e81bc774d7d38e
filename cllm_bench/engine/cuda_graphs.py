"""Decode passes as captured graphs: launched whole, so that the host costs nothing.

A captured graph repeats the same kernels on the same memory. So a pass must have the same shape
every time, and everything that differs must lie in tensors:

    ids, positions (T,)   written before each replay
    slots (T,)            where the new keys and values go: L … L + T - 1
    tree (T, T)           which new rows each row sees; a chain's is a triangle
    attention             over a fixed window of the cache; what lies behind is masked

Passes are padded to the next of `ROWS`, and windows to the next power of two, so that few graphs
serve a whole run. Padding rows see themselves, write behind the pending rows, and are cut off.

What is captured is one function of those tensors; without a capture it can be run as it is, which
is how its logic is tested where there is no GPU.

A captured kernel's launch costs nothing, but its trip through memory does: small element-wise
kernels may take as long as the weights. So the layers can be compiled before they are captured;
prefills, whose shapes are many, stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cllm_bench.engine.fused_layers import compiled_layers
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.session import INITIAL_CAPACITY, Output, Session, last_states
from cllm_bench.errors import UserError

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LEAST_WINDOW = 256
_WARM_UP = 3  # runs before a capture, in which libraries make their choices

Run = Callable[[], None]
Capture = Callable[[Run], Run]  # runs a function some times; returns how to run it again


class Captures:
    """What was captured so far, by all sessions of a family.

    Attributes:
        count: Graphs.
        seconds: That it took; never part of a reply's time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


def cuda_capture(run: Run) -> Run:
    """Capture a function as a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class GraphSession(Session):
    """A session whose passes of few rows are captured; prefills and longer passes are not.

    Args:
        model: Prepared for inference.
        captures: Counts what is captured.
        role: As for `Session`.
        passes: As for `Session`.
        capture: How.
        compiled: Whether layers are fused by torch.compile first, where they are of a known kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        captures: Captures,
        capacity: int = INITIAL_CAPACITY,
        role: str = "target",
        passes: PassLog | None = None,
        capture: Capture = cuda_capture,
        compiled: bool = False,
    ) -> None:
        super().__init__(model, capacity, role, passes)
        self._captures = captures
        self._capture = capture
        self._compiled = compiled
        self._graphs: dict[tuple[int, int, bool], _Graph] = {}
        self._captured_capacity = 0

    def _run(
        self,
        ids: Tensor | Sequence[int],
        depth: Tensor | None,
        mask: Tensor | None,
        *,
        last_only: bool,
        hidden: bool,
    ) -> Output:
        rows = ids.numel() if isinstance(ids, Tensor) else len(ids)
        if last_only or rows > ROWS[-1]:
            return super()._run(ids, depth, mask, last_only=last_only, hidden=hidden)
        padded = next(size for size in ROWS if size >= rows)
        self._reserve(self.length + rows)
        self._cache.reserve(self.length + padded)
        self._forget_moved()
        window = _window(self.length + padded, self._cache.capacity)
        graph = self._graphs.get((padded, window, hidden))
        if graph is None:
            graph = self._graphs[padded, window, hidden] = self._new(padded, window, hidden)
        graph.write(ids, self.length, depth, mask)
        graph.replay()
        self._pending = rows
        logits, states = graph.outputs()
        return Output(logits[:rows].clone(), None if states is None else states[:rows].clone())

    def _forget_moved(self) -> None:
        """Drop all graphs once the cache has grown: they write to where it was."""
        if self._captured_capacity != self._cache.capacity:
            self._graphs.clear()
            self._captured_capacity = self._cache.capacity

    def _new(self, rows: int, window: int, hidden: bool) -> _Graph:
        start = time.perf_counter()
        graph = _Graph(
            self._model, self._cache, self._pass_cache, rows, window, hidden, self._compiled
        )
        graph.write([0] * rows, self.length, None, None)
        try:
            graph.replay = self._capture(graph.run)
        except torch.OutOfMemoryError:
            raise  # another engine would not find more
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            raise UserError(
                f"{type(self._model).__name__} cannot be captured as a graph ({text}); "
                "run it with --engine eager"
            ) from None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._captures.count += 1
        self._captures.seconds += time.perf_counter() - start
        return graph


class _Buffers(NamedTuple):
    """What is written before each replay."""

    ids: Tensor  # (1, T)
    positions: Tensor  # (1, T)
    slots: Tensor  # (T,)
    length: Tensor  # ()
    tree: Tensor  # (T, T) bool


class _Graph:
    """One pass of a fixed shape over fixed memory.

    Attributes:
        replay: Runs it again on what the buffers hold.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: Any,
        pass_cache: dict[str, Any],
        rows: int,
        window: int,
        hidden: bool,
        compiled: bool,
    ) -> None:
        device = model.device
        self._compiled = compiled
        self.replay: Run = self.run
        self._model, self._cache, self._pass_cache = model, cache, pass_cache
        self._rows, self._window, self._hidden = rows, window, hidden
        self._last = getattr(model.config, "max_position_embeddings", None)
        self._steps = torch.arange(rows, device=device)
        self._columns = torch.arange(window, device=device)
        self._triangle = torch.ones(rows, rows, dtype=torch.bool, device=device).tril()
        self._lowest = torch.finfo(model.dtype).min
        self._buffers = _Buffers(
            torch.zeros(1, rows, dtype=torch.long, device=device),
            torch.zeros(1, rows, dtype=torch.long, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros((), dtype=torch.long, device=device),
            self._triangle.clone(),
        )
        self._logits: Tensor | None = None
        self._states: Tensor | None = None

    def write(
        self,
        ids: Tensor | Sequence[int],
        length: int,
        depth: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        """Put a pass into the buffers."""
        buffers, device = self._buffers, self._columns.device
        tokens = torch.as_tensor(ids, dtype=torch.long, device=device)
        rows = tokens.numel()
        buffers.ids.zero_()
        buffers.ids[0, :rows] = tokens
        buffers.length.fill_(length)
        buffers.slots.copy_(self._steps + length)
        positions = self._steps + length
        if depth is not None:
            positions[:rows] = depth.to(device) + length
        if self._last is not None:
            positions.clamp_(max=self._last - 1)  # padding rows may stand behind the last one
        buffers.positions[0] = positions
        buffers.tree.copy_(self._triangle)
        if mask is not None:
            buffers.tree[:rows, :rows] = mask.to(device)

    @torch.inference_mode()
    def run(self) -> None:
        """Run the pass on the buffers; no value of theirs is known to the host."""
        buffers = self._buffers
        behind = self._columns - buffers.length  # (window,): index among the new rows
        inside = (behind >= 0) & (behind < self._rows)
        seen = buffers.tree[:, behind.clamp(0, self._rows - 1)] & inside  # (T, window)
        visible = seen | (behind < 0)
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=visible.device)
        mask = mask.masked_fill(~visible, self._lowest)[None, None]
        fused = compiled_layers(self._model) if self._compiled else nullcontext()
        states = last_states(self._model, wanted=self._hidden)
        with fused, states as found, self._cache.fixed(buffers.slots, self._window):
            output = self._model(
                input_ids=buffers.ids,
                attention_mask=mask,
                position_ids=buffers.positions,
                **self._pass_cache,
                use_cache=True,
            )
        self._logits = output.logits[0]
        self._states = found[0] if found else None

    def outputs(self) -> tuple[Tensor, Tensor | None]:
        """Return logits (T, V) and states (T, H) of the last replay; the next one overwrites."""
        assert self._logits is not None
        return self._logits, self._states


def _window(needed: int, capacity: int) -> int:
    """Return how many columns a pass looks at: a power of two, or all there are."""
    window = LEAST_WINDOW
    while window < needed:
        window *= 2
    return min(window, capacity)
