"""A key-value cache over preallocated memory, in the shape that transformers' models expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers that grow by doubling, never by one token.

    Shapes are (B, heads, capacity, head size) with B = 1. The model's `update` writes behind the
    committed tokens and sees a view of everything so far; nothing is committed until `Session.keep`
    moves `length`, so rejecting tokens costs nothing.
    """

    is_croppable = True

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.fixed: tuple[Tensor, int] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers for the head counts and sizes seen at first use."""
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        batch, heads, _, size = states.shape
        # Zeros: a captured pass sees columns that nobody wrote, and no mask hides a NaN.
        return states.new_zeros(batch, heads, self.capacity, size)

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
        self.keys, self.values = self._buffer(old_keys), self._buffer(old_values)
        self.keys[:, :, : self.length] = old_keys[:, :, : self.length]
        self.values[:, :, : self.length] = old_values[:, :, : self.length]

    def gather(self, rows: Tensor) -> None:
        """Move the given pending rows to the front of the pending area, in place."""
        for buffer in (self.keys, self.values):
            assert buffer is not None
            chosen = buffer.index_select(2, rows + self.length)
            buffer[:, :, self.length : self.length + rows.numel()] = chosen

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
    """One `PreallocatedLayer` per layer of the model, moved together."""

    def __init__(self, layers: int, capacity: int) -> None:
        self._rows: list[PreallocatedLayer] = [PreallocatedLayer(capacity) for _ in range(layers)]
        self.capacity = capacity
        super().__init__(layers=list(self._rows))

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
        """Bring scattered pending rows together, in every layer."""
        for layer in self._rows:
            layer.gather(rows)
