"""Logits of a packed batch as an objective reads them: students beside their teachers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from cllm_bench.contracts import Divergence

from ..recipes.losses import divergence
from .packing import Packed, answer_rows, copy_rows, differs, inside, owned

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedLogits:
    """The contract's `StateBatch`.

    Attributes:
        packed: What the logits are of.
        rows: The logits; the first columns may be left out.
        chains: Copies of one iteration.
    """

    packed: Packed
    rows: Tensor  # (B, T or T - t, V)
    chains: int

    @property
    def copies(self) -> int:
        """Noisy copies of each answer."""
        return self.packed.copies

    def pair(self, student: int, teacher: int | None = None) -> Pair:
        """Return the rows of a copy that have something to learn, beside those of its teacher."""
        return Pair(self, student, teacher)

    def logits(self, copy: int | None = None) -> Tensor:  # (B, A, V)
        """Return all rows of a copy, or of the answer."""
        return self._answer if copy is None else copy_rows(self.rows, self.packed, copy)

    def exists(self, copy: int | None = None) -> Tensor:  # (B, A) bool
        """Return which rows there are."""
        return inside(self.packed) if copy is None else owned(self.packed, copy)

    @property
    def counted(self) -> Tensor:  # ()
        """Rows that have something to learn, in the mean over the copies, by their weights."""
        first, *more = (self.pair(copy).weights.sum() for copy in range(self.copies))
        return sum(more, first) / self.copies

    @cached_property
    def _answer(self) -> Tensor:
        return answer_rows(self.rows, self.packed)


@dataclass(frozen=True)
class Pair:
    """The contract's `StatePair`: a copy beside another one, or beside the answer."""

    batch: PackedLogits
    copy: int
    of: int | None

    @cached_property
    def _counted(self) -> Tensor:  # (B, A) bool
        return differs(self.batch.packed, self.copy)

    @cached_property
    def student(self) -> Tensor:  # (N, V)
        """Logits of the copy."""
        return self.batch.logits(self.copy)[self._counted]

    @cached_property
    def teacher(self) -> Tensor:  # (N, V)
        """Logits of the teacher, without gradient."""
        return self.batch.logits(self.of)[self._counted].detach()

    @cached_property
    def tokens(self) -> Tensor:  # (N,)
        """The answer's own next tokens."""
        packed = self.batch.packed
        return answer_rows(packed.ids, packed, shift=1)[self._counted]

    @cached_property
    def depth(self) -> Tensor:  # (N,)
        """Distance from the beginning of the noisy context."""
        packed, columns = self.batch.packed, self.batch.packed.columns(self.copy)
        return (packed.positions[:, columns] - packed.begins[:, columns])[self._counted]

    @cached_property
    def weights(self) -> Tensor:  # (N,)
        """Rows of the answer that each row stands for."""
        held = owned(self.batch.packed, self.copy).sum(1).clamp(min=1)
        share = self.batch.packed.answers / held
        return share[:, None].expand_as(self._counted)[self._counted]

    def divergence(self, kind: Divergence) -> Tensor:  # (N,)
        """Return how far the student is from the teacher, row by row, in nats."""
        if kind not in get_args(Divergence):
            raise ValueError(f"'{kind}' is not one of {', '.join(get_args(Divergence))}")
        return divergence(self.teacher, self.student, kind)
