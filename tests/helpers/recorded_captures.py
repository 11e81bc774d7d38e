"""Captures as CUDA makes them, without CUDA: operations recorded once, then repeated in place.

A recorded operation is repeated with the tensors that it had, and its results are written to where
they were. So whatever the host decided while the function was recorded is decided for good, as in
a graph: a length, an address or a choice that does not lie in a tensor comes out wrong.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cllm_bench.engine.cuda_graphs import Captures, Mailbox


class _Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []
        self._outside, self.made = set(), {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, found))
        for tensor in _tensors((args, kwargs)):
            if _memory(tensor) not in self.made:
                self._outside.add(_memory(tensor))
        for tensor in _tensors(found):
            if _memory(tensor) not in self._outside:
                self.made.setdefault(_memory(tensor), tensor)
        return found


class SharedPool:
    """Captures in one pool of memory: a launch spoils what others have left in it.

    What was there before a capture, such as inputs and results, is not in the pool.
    """

    def __init__(self):
        self._newest = None

    def __call__(self, run):
        """Record a function; return what repeats the operations that it was made of."""
        with _Recording() as recording:
            run()
        self._launch(recording)

        @torch.inference_mode()
        def replay():
            self._launch(recording)
            for operation, args, kwargs, before in recording.operations:
                after = operation(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay

    @torch.inference_mode()
    def _launch(self, recording):
        before, self._newest = self._newest, recording
        if before is not None and before is not recording:
            for tensor in before.made.values():
                tensor.fill_(float("nan") if tensor.is_floating_point() else 1)


def recorded(run):
    """Record a function with a pool of its own."""
    return SharedPool()(run)


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()


class Costs:
    """Counts what the host asks for, launches of captured functions left out.

    Attributes:
        operations: Names of operations, views and copies included.
        copies: Copies between the host's memory and the device's.
        waits: How often the host waits for the device.
    """

    def __init__(self, monkeypatch):
        self.operations, self.copies, self.waits = [], 0, 0
        self._on = False
        for name in ("tolist", "item", "cpu", "numpy", "__int__", "__bool__", "__float__"):
            self._watch(monkeypatch, torch.Tensor, name)
        self._watch(monkeypatch, Mailbox, "read", copies=0)  # its copy is an operation

    def _watch(self, monkeypatch, owner, name, copies=1):
        own = getattr(owner, name)

        def reading(*args):
            self.copies += copies * self._on
            self.waits += self._on
            return own(*args)

        monkeypatch.setattr(owner, name, reading)

    @property
    def captures(self):
        """Captures whose launches cost nothing."""

        def capture(run):
            again = recorded(run)

            def replay():
                counting, self._on = self._on, False
                again()
                self._on = counting

            return replay

        return Captures(capture)

    @contextmanager
    def counted(self):
        """Count from here on, anew."""
        self.operations, self.copies, self.waits = [], 0, 0
        self._on = True
        with _Counting(self):
            yield
        self._on = False

    def add(self, operation, args, kwargs):
        """Count an operation."""
        if self._on:
            self.operations.append(operation.__name__)
            if operation.__name__ == "copy_.default":
                self.copies += kwargs.get("non_blocking", args[2:] == (True,))


class _Counting(TorchDispatchMode):
    def __init__(self, costs):
        super().__init__()
        self._costs = costs

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._costs.add(operation, args, kwargs or {})
        return operation(*args, **(kwargs or {}))
