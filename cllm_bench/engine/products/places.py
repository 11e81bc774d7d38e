"""Where the products of a model are, and how others come into their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cllm_bench.engine.fused_layers import FusedLayer, layers_of
from cllm_bench.engine.products.kernels import PLAIN, Kernel, Product
from cllm_bench.engine.runtime import ProductChoice

Packed = dict[tuple[int, str], Any]  # copies of weights, by the number of the place and the kernel


class Place(NamedTuple):
    """A product of a model."""

    plain: Product
    use: Callable[[Sequence[Product]], None]  # takes those for 0, 1, … rows; none: the plain one

    @property
    def shape(self) -> str:
        """The product's shape, as choices name it."""
        outputs, inputs = self.plain.weight.shape
        return f"{outputs}x{inputs}"

    @property
    def nbytes(self) -> int:
        """Bytes of the weight, and of any copy."""
        return int(self.plain.weight.nbytes)


def places_of(model: PreTrainedModel) -> list[Place]:
    """Return the products of a model on a CPU, about in the order of a pass.

    Those of fused layers, and all linear modules outside them: the head, and layers that run as
    transformers has them. Left out is what has no ordinary weight.
    """
    found, inside = [], set[nn.Module]()
    for layer in layers_of(model):
        fused = layer.__dict__.get("forward")
        if isinstance(fused, FusedLayer):
            inside.update(layer.modules())
            found += [
                Place(product, partial(fused.use, name)) for name, product in fused.products.items()
            ]
    for module in model.modules():
        if type(module) is nn.Linear and module not in inside and not hasattr(module, "_hf_hook"):
            plain = Product(module.weight, module.bias)
            found.append(Place(plain, partial(_use, module)))
    return [place for place in found if _is_ordinary(place.plain.weight)]


def _is_ordinary(weight: Any) -> bool:
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.device.type == "cpu"
        and weight.layout is torch.strided
        and weight.dim() == 2
        and weight.numel() > 0
    )


class _Linear:
    """The forward pass of a linear module that has other products for few rows."""

    def __init__(self, plain: Product, by_rows: Sequence[Product]) -> None:
        self._plain = plain
        self._by_rows = by_rows

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        """Return the product, (…, out), with states, (…, in)."""
        rows = input.numel() // input.shape[-1]
        weight, bias, kernel = self._by_rows[rows] if rows < len(self._by_rows) else self._plain
        return kernel(input, weight, bias)


def _use(module: nn.Linear, by_rows: Sequence[Product]) -> None:
    module.__dict__.pop("forward", None)
    if by_rows:
        module.__dict__["forward"] = _Linear(Product(module.weight, module.bias), by_rows)


def use_products(
    model: PreTrainedModel,
    places: Sequence[Place],
    choice: ProductChoice,
    kernels: Sequence[Kernel],
    packed: Packed,
) -> None:
    """Let a model compute its products with the kernels that were chosen.

    Weights that are loaded into it later are not in the copies: then all products are plain again.

    Args:
        model: Whose products.
        places: Where they are.
        choice: By shape and rows.
        kernels: Those that it may name.
        packed: Copies that are there already; taken out as they are used.
    """
    named = {kernel.name: kernel for kernel in kernels}
    copied = False
    for number, place in enumerate(places):
        chosen = choice.kernels.get(place.shape, ())
        copies = {}
        for name in {*chosen} - {PLAIN}:
            if (number, name) not in packed:
                packed[number, name] = named[name].pack(place.plain.weight)
            copies[name] = packed.pop((number, name))
        if copies:
            place.use(list(_by_rows(place.plain, choice.rows, chosen, named, copies)))
            copied = True
    packed.clear()
    if not copied:
        return

    def forget(*_: Any) -> None:
        for place in places:
            place.use(())

    model.register_load_state_dict_post_hook(forget)


def _by_rows(
    plain: Product,
    rows: Sequence[int],
    chosen: Sequence[str],
    named: Mapping[str, Kernel],
    copies: Mapping[str, Any],
) -> Iterator[Product]:
    """Yield the product for 0 rows, for one, and so on: each as the next count that was tried."""
    bucket = 0
    for count in range(rows[-1] + 1):
        bucket += count > rows[bucket]
        name = chosen[bucket]
        yield plain if name == PLAIN else named[name].product(copies[name], plain, count)
