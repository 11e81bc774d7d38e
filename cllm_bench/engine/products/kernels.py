"""Kernels that multiply states by a weight: torch's own, and those that lay the weight out first.

In a pass of few rows each weight is read once and hardly used, so what counts is in which order it
lies in memory. torch's `linear` takes it as it is stored. MKL and oneDNN can pack it: into a copy,
as large as the weight, in the order in which their loops will read it. Which of them is the fastest
depends on the processor, the shape, the number of rows and on whether the weight is in a cache:
`trial.py` tries. Ratios to `linear`, all products of a pass of 35 MB in float32, two threads:

    rows                               1      5      12     16     32
    Intel Xeon (AVX-512), MKL        1.19   0.91   0.68   0.65   0.75
    Intel Xeon (AVX-512), oneDNN     1.84   0.98   1.02   0.94   1.05
    AMD EPYC (40 MB), oneDNN         0.36    –      –     0.34    –

The operations are those of Inductor's freezing, and no public interface of torch: where a build or
a release lacks them, or they answer otherwise than `linear` does, `linear` stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

PLAIN = "plain"
LIMIT = 64  # rows of a pass, up to which another kernel than `linear` is tried
_BLOCK = 16  # rows that a method may verify at once


class Product(NamedTuple):
    """A weight, and what multiplies states by it."""

    weight: Any  # (out, in); or in the order in which the kernel takes it
    bias: Tensor | None  # (out,)
    kernel: Callable[[Tensor, Any, Tensor | None], Tensor] = linear


class Kernel(Protocol):
    """A way to compute products of few rows, on a packed copy of the weight."""

    @property
    def name(self) -> str:
        """What choices call it."""
        ...

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Precisions that it knows."""
        ...

    @property
    def most(self) -> int:
        """The largest number of rows that it may be the fastest for."""
        ...

    def pack(self, weight: Tensor) -> Any:
        """Return the copy of a weight, (out, in).

        Raises:
            AttributeError: This torch does not have the kernel.
            RuntimeError: This processor does not, or there is no memory.
        """
        ...

    def product(self, packed: Any, plain: Product, rows: int) -> Product:
        """Return the product on the copy, for states of so many rows in all."""
        ...


@dataclass(frozen=True)
class OneDnn:
    """oneDNN's inner product.

    Attributes:
        rows: Number of rows that the copy is laid out for; with others it is right too.
        most: As in `Kernel`.
    """

    rows: int
    most: int
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    @property
    def name(self) -> str:
        """What choices call it."""
        return "onednn" if self.rows > 1 else "onednn-1"

    def pack(self, weight: Tensor) -> Any:
        """Return the copy of a weight, (out, in)."""
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), self.rows)

    def product(self, packed: Any, plain: Product, rows: int) -> Product:
        """Return the product on the copy."""
        del rows
        multiply = torch.ops.mkldnn._linear_pointwise.default

        def kernel(states: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
            found: Tensor = multiply(states, weight, bias, "none", [], "")
            return found

        return Product(packed, plain.bias, kernel)


@dataclass(frozen=True)
class Mkl:
    """MKL's packed product of float32.

    Its copy is laid out for one number of rows, and right for others; told another number than the
    states have, torch takes `linear` instead.

    Attributes:
        rows: Number of rows that the copy is laid out for.
        most: As in `Kernel`.
    """

    rows: int
    most: int
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    name: str = "mkl"

    def pack(self, weight: Tensor) -> Any:
        """Return the copy of a weight, (out, in)."""
        return torch.ops.mkl._mkl_reorder_linear_weight(weight.detach().contiguous(), self.rows)

    def product(self, packed: Any, plain: Product, rows: int) -> Product:
        """Return the product on the copy, for states of so many rows in all."""
        multiply, own = torch.ops.mkl._mkl_linear.default, plain.weight

        def kernel(states: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
            found: Tensor = multiply(states, weight, own, bias, rows)
            return found

        return Product(packed, plain.bias, kernel)


# Packed for many rows, both are fast for fewer too. oneDNN's copy for one row is of another order,
# so a pass of several lays it out anew each time.
KERNELS: tuple[Kernel, ...] = (
    Mkl(rows=LIMIT, most=LIMIT),
    OneDnn(rows=_BLOCK, most=LIMIT),
    OneDnn(rows=1, most=1),
)
