"""A key-value cache over preallocated memory, in the shape that transformers' models expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers that grow by doubling, never by one token.

    Shapes are (B, heads, capacity, head size) with B = 1. The model's `update` writes behind the
    committed tokens and sees a view of everything so far; nothing is committed until `Session.keep`
    moves `length`, so rejecting tokens costs nothing.

    Args:
        capacity: Tokens for which there is room.
        allocate: Returns a zeroed buffer of that capacity for states such as those given. Zeros: a
            captured pass sees columns that nobody wrote, and no mask hides a NaN.
    """

    is_croppable = True

    def __init__(self, capacity: int, allocate: Callable[[Tensor, str], Tensor]) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.fixed: tuple[Tensor, int] | None = None
        self._allocate = allocate

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers for the head counts and sizes seen at first use."""
        self.keys = self._allocate(key_states, "keys")
        self.values = self._allocate(value_states, "values")
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new rows behind the committed ones; return views of both together."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, rows = self.length, key_states.shape[-2]
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        if self.fixed is not None:
            slots, window = self.fixed
            keys.index_copy_(2, slots, key_states)
            values.index_copy_(2, slots, value_states)
            return keys.narrow(2, 0, window), values.narrow(2, 0, window)
        keys.narrow(2, start, rows).copy_(key_states)
        values.narrow(2, start, rows).copy_(value_states)
        return keys.narrow(2, 0, start + rows), values.narrow(2, 0, start + rows)

    def grow(self, capacity: int) -> None:
        """Move what is committed into larger buffers."""
        self.capacity = capacity
        if not self.is_initialized:
            return
        old_keys, old_values = self.keys, self.values
        assert old_keys is not None
        assert old_values is not None
        self.lazy_initialization(old_keys, old_values)
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, : self.length] = old_keys[:, :, : self.length]
        self.values[:, :, : self.length] = old_values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the key length that the next `update` will show, and its offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of committed tokens."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: the layer grows."""
        return -1


class PreallocatedCache(Cache):
    """One `PreallocatedLayer` per layer of the model, moved together.

    Layers whose states have one shape, which is all of them in most models, are slices of one
    buffer, so that bringing rows together takes the same few operations for any number of layers.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self._rows: list[PreallocatedLayer] = [
            PreallocatedLayer(capacity, partial(self._buffer, layer)) for layer in range(layers)
        ]
        self._shared: dict[str, Tensor] = {}  # keys and values: (layers, B, heads, capacity, size)
        self._apart: list[Tensor] = []  # buffers of layers of another shape
        self.capacity = capacity
        super().__init__(layers=list(self._rows))

    def _buffer(self, layer: int, states: Tensor, kind: str) -> Tensor:
        batch, heads, _, size = states.shape
        shape = (batch, heads, self.capacity, size)
        if kind not in self._shared:
            self._shared[kind] = states.new_zeros(len(self._rows), *shape)
        shared = self._shared[kind]
        likeness = (shared.shape[1:], shared.dtype, shared.device)
        if likeness == (shape, states.dtype, states.device):
            return shared[layer]
        self._apart.append(states.new_zeros(shape))
        return self._apart[-1]

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new rows; see `PreallocatedLayer.update`."""
        return self._rows[layer_idx].update(key_states, value_states)

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in all, doubling so that growth is rare."""
        if tokens <= self.capacity:
            return
        while self.capacity < tokens:
            self.capacity *= 2
        self._shared, self._apart = {}, []
        for layer in self._rows:
            layer.grow(self.capacity)

    def commit(self, length: int) -> None:
        """Set the number of committed tokens; what lies behind it is dropped."""
        for layer in self._rows:
            layer.length = length

    @contextmanager
    def fixed(self, slots: Tensor, window: int) -> Iterator[None]:
        """Let updates write to the places that a tensor holds, and show so many columns.

        A captured graph repeats them so: it knows addresses, and not how many tokens there are.

        Args:
            slots: Places of the new rows, (T,).
            window: Columns that attention sees; what no row may see yet is for the mask to hide.
        """
        for layer in self._rows:
            layer.fixed = (slots, window)
        try:
            yield
        finally:
            for layer in self._rows:
                layer.fixed = None

    def gather(self, rows: Tensor) -> None:
        """Bring scattered pending rows together behind the committed ones, in every layer."""
        start = self._rows[0].length
        places, end = rows + start, start + rows.numel()
        for buffer in self._buffers():
            buffer[..., start:end, :] = buffer.index_select(-2, places)

    def move(self, sources: Tensor, places: Tensor) -> None:
        """Copy rows to other places in every layer, both given by a tensor, (K,)."""
        for buffer in self._buffers():
            buffer.index_copy_(-2, places, buffer.index_select(-2, sources))

    def _buffers(self) -> Iterator[Tensor]:
        yield from self._shared.values()
        yield from self._apart
