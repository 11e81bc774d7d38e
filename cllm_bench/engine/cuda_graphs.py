"""Passes as captured graphs: launched whole, so that the host costs nothing.

A captured graph repeats the same kernels on the same memory. So what it does must have the same
shape every time, and everything that differs must lie in tensors. Here a graph is a function of
integers, which cross over to the device in one copy and come back in one:

    length              committed tokens, L
    ids (T,)            new tokens; their keys and values go to L … L + T - 1
    depth (T,)          of a tree: positions behind L
    words (T, T / 32)   of a tree: bit j of row i tells whether row i sees row j
                        ── all that a method's pass takes

    choices (T,)        the likeliest token behind each row

The mask is made of them on the device. Attention sees a fixed window of the cache, and what lies
behind is masked. Passes are padded to the next of `ROWS`, and windows to the next power of two, so
that few graphs serve a whole run. Padding rows see themselves, write behind the pending rows, and
are cut off.

A method may capture more than a pass: `Session.program` takes a function of several passes and what
is between them, such as the k passes of a draft.

What is captured is one function of these tensors; without a capture it can be run as it is, which
is how its logic is tested where there is no GPU.

A captured kernel's launch costs nothing, but its trip through memory does: small element-wise
kernels may take as long as the weights. So the layers can be compiled before they are captured;
prefills, whose shapes are many, stay as they are.
"""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cllm_bench.engine.fused_layers import compiled_layers
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.session import INITIAL_CAPACITY, Body, Output, Program, Session, last_states
from cllm_bench.errors import UserError

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LEAST_WINDOW = 256
_WARM_UP = 3  # runs before a capture, in which libraries make their choices
_WORD = 32  # rows that an integer of a mask tells of

Words = npt.NDArray[np.int64]
_NO_WORDS: Words = np.zeros(0, dtype=np.int64)

Run = Callable[[], None]
Capture = Callable[[Run], Run]  # runs a function some times; returns how to run it again


class Captures:
    """What was captured so far, by all sessions of a family, and the memory that it shares.

    Graphs of one pool write over one another's memory: what one leaves behind is gone once
    another has run. Only inputs and results, which are made before a capture, stay.

    Args:
        capture: How a function is captured; by default as a CUDA graph.

    Attributes:
        count: Graphs.
        seconds: That it took; never part of a reply's time.
        replays: Launches so far: tells whether what a graph left behind is still there.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self.count = 0
        self.seconds = 0.0
        self.replays = 0
        self._capture = capture or _CudaCapture()

    def totals(self) -> dict[str, float]:
        """Return graphs and seconds, to be stored."""
        return {"count": self.count, "seconds": self.seconds}

    def capture(self, run: Run) -> Run:
        """Capture a function."""
        start = time.perf_counter()
        replay = self._capture(run)
        self.count += 1
        self.seconds += time.perf_counter() - start
        return replay


class _CudaCapture:
    """Captures functions as CUDA graphs, with one pool of memory and one stream to warm up on."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, run: Run) -> Run:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
            # A pool whose last graph has gone cannot be used again: this one stays.
            self._keeper = self._graph(lambda: torch.zeros(1, device="cuda"))
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                run()
        current.wait_stream(self._stream)
        graph = self._graph(run)
        torch.cuda.synchronize()
        return graph.replay

    def _graph(self, run: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            run()
        return graph


class Mailbox:
    """Integers on their way to the device and back, by pinned memory: one copy each way.

    Args:
        words: How many there are to send, N.
        results: How many there are to read, R.
        device: Where to.

    Attributes:
        inputs: What was sent, (N,), on the device.
        results: What can be read, (R,), on the device.
    """

    def __init__(self, words: int, results: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._outgoing = torch.zeros(words, dtype=torch.long, pin_memory=self._cuda)
        self._words: Words = self._outgoing.numpy()
        self.inputs = torch.zeros(words, dtype=torch.long, device=device)
        self.results = torch.zeros(results, dtype=torch.long, device=device)
        self._incoming = torch.zeros(results, dtype=torch.long, pin_memory=self._cuda)
        self._read: Words = self._incoming.numpy()
        self._sent = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]

    def open(self) -> Words:
        """Return the words to send, (N,) on the host; what was sent before has arrived by now."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._words

    def send(self) -> None:
        """Copy the words to the device."""
        self.inputs.copy_(self._outgoing, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    @torch.inference_mode()
    def read(self, count: int) -> list[int]:
        """Wait for the device, and return the first results."""
        self._incoming.copy_(self.results, non_blocking=True)
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()
        found: list[int] = self._read[:count].tolist()
        return found


class GraphSession(Session):
    """A session whose passes of few rows are captured; prefills and longer passes are not.

    Args:
        model: Prepared for inference.
        captures: Captures, and counts what it has captured.
        capacity: As for `Session`.
        role: As for `Session`.
        passes: As for `Session`.
        compiled: Whether layers are fused by torch.compile first, where they are of a known kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        captures: Captures,
        capacity: int = INITIAL_CAPACITY,
        role: str = "target",
        passes: PassLog | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(model, capacity, role, passes)
        self.captures = captures
        self._compiled = compiled
        self._passes_of: dict[tuple[int, bool, bool], _CapturedPass] = {}
        self._moves: dict[int, _CapturedMove] = {}
        self._trees = _Trees()
        self._recording: _Recording | None = None
        # L, as the newest captured pass knows it, and what the host believes it to be.
        self._begin = torch.zeros((), dtype=torch.long, device=self.device)
        self._begin_known: int | None = None

    def program(
        self, body: Body, *, rows: int, results: int, state: Sequence[Tensor] = ()
    ) -> Program:
        """Return a function that is captured and launched as a whole; see `Session.program`."""
        return _CapturedProgram(self, body, rows, results, state)

    def keep(self, rows: int | Tensor) -> None:
        """Commit rows of the last pass; see `Session.keep`."""
        if self._recording is None:
            super().keep(rows)
            return
        if not isinstance(rows, int):
            raise ValueError("a captured program can only keep leading rows")
        self._recording.kept += rows
        self._pending = 0

    def _count(self, rows: int, *, tree: bool) -> None:
        if self._recording is None:
            super()._count(rows, tree=tree)
        else:
            self._recording.shapes.append((rows, tree))

    def _run(
        self,
        ids: Tensor | Sequence[int],
        depth: Tensor | None,
        mask: Tensor | None,
        *,
        last_only: bool,
        hidden: bool,
    ) -> Output:
        if self._recording is not None:
            assert isinstance(ids, Tensor)
            return self._pass_within(ids, depth, mask, hidden)
        rows = ids.numel() if isinstance(ids, Tensor) else len(ids)
        if last_only or rows > ROWS[-1]:
            return super()._run(ids, depth, mask, last_only=last_only, hidden=hidden)
        padded = next(size for size in ROWS if size >= rows)
        key = padded, depth is not None or mask is not None, hidden
        if key not in self._passes_of:
            self._passes_of[key] = _CapturedPass(self, *key)
        self._reserve(self.length + rows)
        output = self._passes_of[key].run(ids, self._trees.packed(padded, rows, depth, mask))
        self._pending = rows
        return output

    def _pass_within(
        self, ids: Tensor, depth: Tensor | None, mask: Tensor | None, hidden: bool
    ) -> Output:
        """Run a pass within a capture: behind what a tensor says, and what was kept since."""
        recording = self._recording
        assert recording is not None
        rows, begin = ids.numel(), self._begin + recording.kept
        steps = torch.arange(rows, device=self.device)
        if mask is None:
            mask = steps <= steps[:, None]
        logits, states = self._fixed_pass(
            ids, begin, steps if depth is None else depth, mask, recording.window, hidden
        )
        self._pending = rows
        return Output(logits, states)

    def _fixed_pass(
        self,
        ids: Tensor,  # (T,)
        begin: Tensor,  # ()
        depth: Tensor,  # (T,)
        tree: Tensor,  # (T, T) bool
        window: int,
        hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:  # (T, V), (T, H)
        """Run a pass of which the host knows nothing but its shape."""
        rows = ids.numel()
        behind = torch.arange(window, device=self.device) - begin  # index among the new rows
        inside = (behind >= 0) & (behind < rows)
        visible = (tree[:, behind.clamp(0, rows - 1)] & inside) | (behind < 0)  # (T, window)
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=self.device)
        mask = mask.masked_fill(~visible, torch.finfo(mask.dtype).min)[None, None]
        positions = depth + begin
        if self._positions_known is not None:  # padding rows may stand behind the last one
            positions = positions.clamp(max=self._positions_known - 1)
        slots = torch.arange(rows, device=self.device) + begin
        fused = compiled_layers(self._model) if self._compiled else nullcontext()
        states = last_states(self._model, wanted=hidden)
        with fused, states as found, self._cache.fixed(slots, window):
            output = self._model(
                input_ids=ids[None],
                attention_mask=mask,
                position_ids=positions[None],
                **self._pass_cache,
                use_cache=True,
            )
        return output.logits[0], found[0] if found else None

    @contextmanager
    def _recorded(self, window: int) -> Iterator[_Recording]:
        """Let passes and `keep` do within what a capture can repeat."""
        pending = self._pending
        self._recording = recording = _Recording(window)
        try:
            yield recording
            recording.pending = self._pending
        finally:
            self._recording, self._pending = None, pending

    def _finish(self, recording: _Recording) -> None:
        """Note on the host what a launch has done."""
        for rows, tree in recording.shapes:
            self._count(rows, tree=tree)
        self.length += recording.kept
        self._cache.commit(self.length)
        self._pending, self._begin_known = recording.pending, self.length

    def _gather(self, rows: Tensor) -> None:
        if self._begin_known != self.length:  # the pass was a long one, which is not captured
            super()._gather(rows)
            return
        count = rows.numel()
        if count not in self._moves:
            self._moves[count] = _CapturedMove(self, count)
        self._moves[count].run(rows)

    def captured(self, run: Run) -> Run:
        """Capture a function, or say in one line that it cannot be.

        Raises:
            UserError: It cannot be captured.
        """
        try:
            return self.captures.capture(torch.inference_mode()(run))
        except torch.OutOfMemoryError:
            raise  # another engine would not find more
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            raise UserError(
                f"{type(self._model).__name__} cannot be captured as a graph ({text}); "
                "run it with --engine eager"
            ) from None


@dataclass
class _Recording:
    """What a program does with its session while it is captured.

    Attributes:
        window: Columns that its passes see.
        kept: Rows committed so far.
        pending: Rows of the last pass that were not.
        shapes: Of its passes: rows, and whether they are a tree.
    """

    window: int
    kept: int = 0
    pending: int = 0
    shapes: list[tuple[int, bool]] = field(default_factory=list)


class _Captured(ABC):
    """A function of a session's memory, captured for every window; anew where memory has moved.

    Args:
        session: On whose cache it works.
        rows: That it may write behind the committed ones.
    """

    def __init__(self, session: GraphSession, rows: int) -> None:
        self._session = session
        self._rows = rows
        self._replays: dict[int, Run] = {}
        self._capacity = 0

    def _window(self) -> int:
        """Return the columns that a launch would see now; room for its rows is made."""
        cache, needed = self._session._cache, self._session.length + self._rows
        cache.reserve(needed)
        if self._capacity != cache.capacity:
            self._replays.clear()  # they write to where the cache was
            self._capacity = cache.capacity
        return _window(needed, cache.capacity)

    def _launch(self, window: int) -> None:
        """Run for a window: capture it first where that is new."""
        session = self._session
        if window not in self._replays:
            with self._undone():
                self._replays[window] = session.captured(lambda: self._run(window))
        self._replays[window]()
        session.captures.replays += 1

    @abstractmethod
    def _run(self, window: int) -> None:
        """Work on tensors alone."""

    def _undone(self) -> AbstractContextManager[None]:
        """Undo what the runs of a capture do to tensors that a launch reads and then overwrites."""
        return nullcontext()


class _CapturedPass(_Captured):
    """A pass of T rows, padded: what `forward` launches."""

    def __init__(self, session: GraphSession, rows: int, tree: bool, hidden: bool) -> None:
        super().__init__(session, rows)
        self._tree, self._hidden = tree, hidden
        self._parts = [1, rows, *([rows, rows * _words(rows)] if tree else [])]
        self._mailbox = Mailbox(sum(self._parts), rows, session.device)
        self._outputs: dict[int, tuple[Tensor, Tensor | None]] = {}  # by window

    def run(self, ids: Tensor | Sequence[int], tree: Words) -> Output:
        """Launch the pass.

        Args:
            ids: New tokens, padding left out.
            tree: Depth and words of all rows; empty for a chain.
        """
        mailbox, window, behind = self._mailbox, self._window(), 1 + self._rows
        words = mailbox.open()
        words[0] = self._session.length
        words[1:behind] = 0
        words[behind:] = tree
        if isinstance(ids, Tensor):
            rows = ids.numel()
            mailbox.send()
            mailbox.inputs[1 : 1 + rows].copy_(ids)
        else:
            rows = len(ids)
            words[1 : 1 + rows] = ids
            mailbox.send()
        self._launch(window)
        self._session._begin_known = self._session.length
        return _Replayed(self._session.captures, mailbox, self._outputs[window], rows)

    def _run(self, window: int) -> None:
        session, rows = self._session, self._rows
        length, ids, *tree = torch.split(self._mailbox.inputs, self._parts)
        session._begin.copy_(length[0])
        depth = steps = torch.arange(rows, device=session.device)
        mask = steps <= steps[:, None]
        if tree:
            depth, words = tree
            bits = words.view(rows, -1, 1) >> torch.arange(_WORD, device=session.device)
            mask = (bits & 1).view(rows, -1)[:, :rows].bool()
        found = session._fixed_pass(ids, session._begin, depth, mask, window, self._hidden)
        self._mailbox.results.copy_(found[0].argmax(-1))
        self._outputs[window] = found


class _Replayed(Output):
    """The output of a launch: logits and states must be read before the next launch."""

    def __init__(
        self,
        captures: Captures,
        mailbox: Mailbox,
        left: tuple[Tensor, Tensor | None],
        rows: int,
    ) -> None:
        self._captures, self._mailbox, self._rows = captures, mailbox, rows
        self._number = captures.replays
        self._left = left

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        """Of every row, (T, V): a copy."""
        return self._copy(self._left[0])

    @cached_property
    def hidden(self) -> Tensor | None:  # type: ignore[override]
        """States of every row behind the last norm, (T, H): a copy."""
        states = self._left[1]
        return None if states is None else self._copy(states)

    @property
    def choices(self) -> Tensor:  # (T,)
        """The likeliest token behind each row, on the device, until the next launch."""
        self._check()
        return self._mailbox.results[: self._rows]

    def tokens(self) -> list[int]:
        """Return the likeliest token behind each row; waits for the device."""
        self._check()
        return self._mailbox.read(self._rows)

    def _copy(self, whole: Tensor) -> Tensor:
        self._check()
        return whole[: self._rows].clone()

    def _check(self) -> None:
        if self._number != self._captures.replays:
            raise RuntimeError("what a captured pass gives must be read before the next launch")


class _CapturedProgram(_Captured):
    """A function of several passes, launched as a whole."""

    def __init__(
        self,
        session: GraphSession,
        body: Body,
        rows: int,
        results: int,
        state: Sequence[Tensor],
    ) -> None:
        super().__init__(session, rows)
        self._body, self._results, self._state = body, results, state
        self._mailbox: Mailbox | None = None
        self._recording = _Recording(0)

    def __call__(self, numbers: Sequence[int]) -> Tensor:  # (N,)
        """Run it, and leave the result on the device until the next call."""
        return self._start(numbers).results

    def read(self, numbers: Sequence[int]) -> list[int]:
        """Run it, and return the result; waits for the device."""
        return self._start(numbers).read(self._results)

    @torch.inference_mode()
    def _start(self, numbers: Sequence[int]) -> Mailbox:
        session = self._session
        if self._mailbox is None:
            self._mailbox = Mailbox(1 + len(numbers), self._results, session.device)
        mailbox = self._mailbox
        session._reserve(session.length + self._rows)
        window = self._window()
        words = mailbox.open()
        words[0] = session.length
        words[1:] = numbers
        mailbox.send()
        self._launch(window)
        session._finish(self._recording)
        return mailbox

    @contextmanager
    def _undone(self) -> Iterator[None]:
        before = [part.clone() for part in self._state]
        yield
        for part, content in zip(self._state, before, strict=True):
            part.copy_(content)

    def _run(self, window: int) -> None:
        session, mailbox = self._session, self._mailbox
        assert mailbox is not None
        session._begin.copy_(mailbox.inputs[0])
        with session._recorded(window) as self._recording:
            mailbox.results.copy_(self._body(mailbox.inputs[1:]))
            session._begin.add_(self._recording.kept)


class _CapturedMove(_Captured):
    """Rows of the newest pass, brought together behind the committed ones."""

    def __init__(self, session: GraphSession, count: int) -> None:
        super().__init__(session, rows=0)
        self._steps = torch.arange(count, device=session.device)
        self._sources = self._steps.clone()

    def run(self, rows: Tensor) -> None:
        """Launch it."""
        self._sources.copy_(rows)
        self._launch(self._window())

    @contextmanager
    def _undone(self) -> Iterator[None]:
        rows = self._sources.clone()
        self._sources.copy_(self._steps)  # moves nothing
        yield
        self._sources.copy_(rows)

    def _run(self, window: int) -> None:
        del window
        begin = self._session._begin
        self._session._cache.move(self._sources + begin, self._steps + begin)


class _Trees:
    """Depths and masks of trees as integers, packed once for each tree."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[list[weakref.ref[Tensor]], Words]] = {}

    def packed(self, padded: int, rows: int, depth: Tensor | None, mask: Tensor | None) -> Words:
        """Return the words of a pass of so many rows; none where it is a chain."""
        given = [part for part in (depth, mask) if part is not None]
        if not given:
            return _NO_WORDS
        key = (padded, *map(id, given), *map(_version, given))
        parts, words = self._known.get(key, ([], _NO_WORDS))
        if parts and all(part() is own for part, own in zip(parts, given, strict=True)):
            return words
        words = _packed(padded, rows, depth, mask)
        if all(_version(part) >= 0 for part in given):
            self._known[key] = [weakref.ref(part) for part in given], words
        return words


def _version(tensor: Tensor) -> int:
    """Return a number that changes when the tensor does; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


def _packed(padded: int, rows: int, depth: Tensor | None, mask: Tensor | None) -> Words:
    places = np.arange(padded)
    seen = np.tri(padded, dtype=bool) if mask is None else np.eye(padded, dtype=bool)
    if depth is not None:
        places[:rows] = depth.cpu().numpy()
    if mask is not None:
        seen[:rows, :rows] = mask.cpu().numpy()
    wide = np.zeros((padded, _words(padded) * _WORD), dtype=np.int64)
    wide[:, :padded] = seen
    words = (wide.reshape(padded, -1, _WORD) << np.arange(_WORD)).sum(-1)
    return np.concatenate([places, words.ravel()])


def _words(rows: int) -> int:
    """Return the words that tell what one of so many rows sees."""
    return -(-rows // _WORD)


def _window(needed: int, capacity: int) -> int:
    """Return how many columns a pass looks at: a power of two, or all there are."""
    window = LEAST_WINDOW
    while window < needed:
        window *= 2
    return min(window, capacity)
