"""Chooses the kernels of a model's products by trying them, for each shape and number of rows.

What is timed are sweeps over the weights in the order of a pass, so that each weight lies where the
pass before has left it: in memory, or in a cache if the model fits there. A sweep goes before each
that counts, for the one before that was another kernel's, over other copies. Of every product the
shortest of several times counts, as other programs only ever add to one.

    for each number of rows: plain · plain · mkl · mkl · onednn · onednn, and again

A kernel is taken only where it answers as the plain one does, up to rounding, and is faster by a
margin than those before it in the list. A weight is packed for a second kernel only where that
gains more.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cllm_bench.engine.products.kernels import KERNELS, LIMIT, PLAIN, Kernel, Product
from cllm_bench.engine.products.places import Packed, Place, places_of, use_products
from cllm_bench.engine.runtime import ProductChoice
from cllm_bench.machine.memory import free_memory

ROWS = (1, 4, 8, 12, 16, 24, 32, LIMIT)  # of the states; counts between run as the next one does
MARGIN = 0.95  # of the time of another kernel, that a later one may take at most
LEAST_BYTES = 2**20  # of weights: fewer are in a core's own cache, and calls are what takes time
SAMPLE_BYTES = 2**28  # of the weights that a sweep reads, if the model has more
SHARE = 0.25  # of the free memory, that copies of weights may take
SECONDS = 0.25  # after which no further round of sweeps begins
LEAST_ROUNDS, ROUNDS = 2, 6
SECOND = 0.85  # of the time without it, that a second copy of a weight may take at most
ROUNDINGS = 16.0  # of the largest number, that a kernel may differ by
CHOSEN = "chosen"  # in the times of a choice: those of the kernels that were taken

# Seconds, by the place in `ROWS`, by kernel and by shape.
Times = list[dict[str, dict[str, float]]]


@torch.inference_mode()
def choose_products(model: PreTrainedModel, known: Iterable[ProductChoice] = ()) -> ProductChoice:
    """Let a model on a CPU compute its products with the fastest kernels; return which they are.

    Args:
        model: Fused and complete: see `use_products`.
        known: Choices of other models, or of an earlier run. That of a model of the same products
            is taken as it is, so that models of one shape run alike.
    """
    places = places_of(model)
    counts = dict(Counter(place.shape for place in places))
    packed: Packed = {}
    choice = next((each for each in known if each.counts == counts), None)
    if choice is None:
        choice = _tried(places, counts, packed)
    use_products(model, places, choice, KERNELS, packed)
    return choice


def _tried(places: Sequence[Place], counts: Mapping[str, int], packed: Packed) -> ProductChoice:
    """Try the kernels where their copies fit; the copies that this makes are left to be used."""
    sample = _sample(places)
    total, tried = sum(each.nbytes for each in places), sum(places[n].nbytes for n in sample)
    room = SHARE * (free_memory("cpu") or 0)
    if total < LEAST_BYTES or max(total, len(KERNELS) * tried) > room:
        return ProductChoice(counts=counts)
    refused = {}
    for kernel in KERNELS:
        reason = _refusal(kernel, places, sample, packed)
        if reason is not None:
            refused[kernel.name] = reason
    usable = [kernel for kernel in KERNELS if kernel.name not in refused]
    if not usable:
        return ProductChoice(counts=counts, refused=refused)
    times = _times(places, sample, usable, packed)
    for names in _preferred(times):
        kernels = {shape: _fastest(times, shape, names) for shape in counts}
        copied = sum(each.nbytes * len({*kernels[each.shape]} - {PLAIN}) for each in places)
        if copied <= room:
            break
    columns: dict[str, list[float]] = {}
    for bucket, by_kernel in enumerate(times):
        chosen = sum(by_kernel[kernels[shape][bucket]][shape] for shape in counts)
        columns.setdefault(CHOSEN, []).append(1000 * chosen)
        for name, by_shape in by_kernel.items():
            columns.setdefault(name, []).append(1000 * sum(by_shape.values()))
    return ProductChoice(
        counts=counts,
        rows=ROWS,
        kernels=kernels,
        milliseconds={name: tuple(column) for name, column in columns.items()},
        copied_bytes=copied,
        refused=refused,
    )


def _sample(places: Sequence[Place]) -> list[int]:
    """Return which places a sweep visits: of a large model the first, and one of each shape."""
    found, shapes, total = [], set(), 0
    for number, place in enumerate(places):
        if total < SAMPLE_BYTES or place.shape not in shapes:
            found.append(number)
            shapes.add(place.shape)
            total += place.nbytes
    return found


def _refusal(
    kernel: Kernel, places: Sequence[Place], sample: Sequence[int], packed: Packed
) -> str | None:
    """Pack what a sweep visits, and tell why a kernel cannot be used, if it cannot."""
    checked = set()
    try:
        for number in sample:
            place = places[number]
            if place.plain.weight.dtype not in kernel.dtypes:
                return f"not in {str(place.plain.weight.dtype).removeprefix('torch.')}"
            copy = packed[number, kernel.name] = kernel.pack(place.plain.weight)
            if place.shape not in checked:
                checked.add(place.shape)
                difference = _difference(kernel, copy, place.plain)
                if difference is not None:
                    return f"it differs by {difference:.2g}"
    except (AttributeError, RuntimeError, TypeError) as error:
        # Operations without a public interface may be missing, or take other arguments.
        return " ".join(str(error).split())[:100]
    return None


def _difference(kernel: Kernel, copy: Any, plain: Product) -> float | None:
    """Return how far a kernel is off, where rounding does not explain it; tries many counts."""
    counts = sorted({*ROWS, *(rows + 1 for rows in ROWS[:-1]), *(rows - 1 for rows in ROWS[1:])})
    states = _states(counts[-1], plain)
    expected = plain.kernel(states, plain.weight, plain.bias)
    limit = ROUNDINGS * torch.finfo(states.dtype).eps * float(expected.abs().max())
    for rows in counts:
        weight, bias, multiply = kernel.product(copy, plain, rows)
        found = multiply(states[:, :rows], weight, bias)
        difference = float((found - expected[:, :rows]).abs().max())
        if not difference <= limit:
            return difference
    return None


def _states(rows: int, plain: Product) -> Tensor:  # (1, rows, in)
    generator = torch.Generator().manual_seed(rows)
    states = torch.randn(1, rows, plain.weight.shape[1], generator=generator)
    return states.to(plain.weight.dtype)


def _times(
    places: Sequence[Place], sample: Sequence[int], kernels: Sequence[Kernel], packed: Packed
) -> Times:
    """Return the shortest times of all products of a shape together."""
    sweeps = [dict(_sweeps(rows, places, sample, kernels, packed)) for rows in ROWS]
    shortest = [{name: [math.inf] * len(sample) for name in by_kernel} for by_kernel in sweeps]
    start = time.perf_counter()
    for done in range(ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        for best, by_kernel in zip(shortest, sweeps, strict=True):
            for name, sweep in by_kernel.items():
                sweep()
                best[name] = list(map(min, best[name], sweep()))
    shapes = [places[number].shape for number in sample]
    return [
        {name: _by_shape(shapes, seconds) for name, seconds in best.items()} for best in shortest
    ]


def _by_shape(shapes: Sequence[str], seconds: Sequence[float]) -> dict[str, float]:
    found = dict.fromkeys(shapes, 0.0)
    for shape, each in zip(shapes, seconds, strict=True):
        found[shape] += each
    return found


def _sweeps(
    rows: int,
    places: Sequence[Place],
    sample: Sequence[int],
    kernels: Sequence[Kernel],
    packed: Packed,
) -> Iterator[tuple[str, Callable[[], list[float]]]]:
    """Yield for each kernel what runs all products once, and returns the seconds of each."""
    visited = [places[number] for number in sample]
    states = {place.shape: _states(rows, place.plain) for place in visited}
    given = [states[place.shape] for place in visited]
    yield PLAIN, partial(_sweep, given, [place.plain for place in visited])
    for kernel in kernels:
        if rows <= kernel.most:
            products = [
                kernel.product(packed[number, kernel.name], places[number].plain, rows)
                for number in sample
            ]
            yield kernel.name, partial(_sweep, given, products)


def _sweep(states: Sequence[Tensor], products: Sequence[Product]) -> list[float]:
    clock, found = time.perf_counter, []
    for given, (weight, bias, kernel) in zip(states, products, strict=True):
        start = clock()
        kernel(given, weight, bias)
        found.append(clock() - start)
    return found


def _preferred(times: Times) -> Iterator[frozenset[str]]:
    """Yield sets of kernels beside the plain one: all, each by itself, none; the best first."""
    every = frozenset(name for by_kernel in times for name in by_kernel) - {PLAIN}
    singles = [frozenset({name}) for name in every]
    yield every
    yield from sorted(singles, key=lambda names: _total(times, times[0][PLAIN], names))
    yield frozenset()


def _fastest(times: Times, shape: str, names: Collection[str]) -> tuple[str, ...]:
    """Return the kernel of each number of rows, of few different ones."""
    if len(names) > 1:
        single = min(names, key=lambda name: _total(times, [shape], {name}))
        names = {single} | {
            name
            for by_kernel in times
            for name in by_kernel.keys() & names
            if by_kernel[name][shape] < SECOND * by_kernel[_best(by_kernel, shape, {single})][shape]
        }
    return tuple(_best(by_kernel, shape, names) for by_kernel in times)


def _total(times: Times, shapes: Collection[str], names: Collection[str]) -> float:
    return sum(
        by_kernel[_best(by_kernel, shape, names)][shape] for by_kernel in times for shape in shapes
    )


def _best(by_kernel: Mapping[str, Mapping[str, float]], shape: str, names: Collection[str]) -> str:
    """Return the fastest of some kernels; each has to beat those before it by the margin."""
    best = PLAIN
    for name, by_shape in by_kernel.items():
        if name in names and by_shape[shape] < MARGIN * by_kernel[best][shape]:
            best = name
    return best
