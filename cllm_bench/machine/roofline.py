"""The roof that memory puts on decoding: every pass reads the weights and the cache once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Bytes of the buffer; the largest that fits is taken. A GPU reads 2 GiB in half a millisecond, so
# that a kernel's start does not count; on a CPU it would take as long as a small run's warm-up.
_SIZES = {"cpu": (2**29,), "cuda": (2**31, 2**30, 2**29)}
_COLUMNS = 4096  # of the matrix: the width of a 7B model
_REPEATS = 3
_REPEATS_AT_SIZE = 20  # of reads that take a millisecond, the first of which fill the caches


class Bandwidth(NamedTuple):
    """What a device's memory can do, in bytes a second.

    Attributes:
        read: Of a large read.
        copy: Of a large copy, read and written bytes both counted.
    """

    read: float
    copy: float


@cache
def bandwidth(device: str) -> Bandwidth | None:
    """Measure how fast a device reads and copies large buffers; None where none fits its memory.

    Decoding reads and hardly writes, so the read is its roof; devices copy more slowly, for the
    memory has to turn from reading to writing, and a processor reads a line before it writes it.

    A read is a sum, a dot product of two halves, or the product of a float32 matrix with a vector,
    each over the whole buffer once; the fastest counts, for a roof is what the machine can do, and
    so does the best of several runs. On an otherwise idle server with two cores, a sum reached
    13.4 GB/s with one thread and the other two 15.5 (copy: 13.4); with two threads 24.8 and 28.8
    (copy: 25.0). That two such different kernels agree says that they wait for memory; where few
    threads are used, what limits them is the misses that a core can have under way, not the
    memory's own rate: the run's threads are used, as its passes use them. Where a last-level cache
    holds half a gigabyte, it is that cache's rate, on a machine that has it to itself.

    On CUDA the device's own events are read, so that neither launch nor wait of the host counts.
    """
    import torch

    on_cuda = device.startswith("cuda")
    for size in _SIZES["cuda" if on_cuda else "cpu"]:
        try:
            return _measured(size, device)
        except torch.OutOfMemoryError:
            continue
        finally:
            if on_cuda:
                torch.cuda.empty_cache()  # else the buffer's memory would stay reserved
    return None


@cache
def read_bandwidth(device: str, size: int) -> float | None:
    """Measure how fast a device reads so many bytes again and again, in bytes a second.

    So decoding reads weights. Where a last-level cache holds them, passes read that: on a processor
    with 480 MB of it, two threads read 32 MB at 48 GB/s and half a gigabyte at 19. More bytes than
    the large buffer of `bandwidth` are read as fast as that; None where not even it fits.
    """
    large = _SIZES["cuda" if device.startswith("cuda") else "cpu"][-1]
    if size >= large:
        found = bandwidth(device)
        return None if found is None else found.read
    import torch

    block = 8 * _COLUMNS  # bytes: `_reads` takes two halves of whole rows
    whole = -(-size // block) * block
    buffer = torch.arange(whole // 4, device=device, dtype=torch.float32)
    return whole / _best(_reads(buffer), device, _REPEATS_AT_SIZE)


def _measured(size: int, device: str) -> Bandwidth:
    import torch

    # Not constant: a GPU that multiplies zeros draws less power, and runs faster.
    buffer = torch.arange(size // 4, device=device, dtype=torch.float32)
    source, target = buffer.chunk(2)
    copied = _best([partial(target.copy_, source)], device)
    return Bandwidth(size / _best(_reads(buffer), device), size / copied)


def _reads(buffer: Tensor) -> Iterator[Callable[[], object]]:
    """Yield ways to read a buffer of float32 once."""
    one, other = buffer.chunk(2)
    yield buffer.sum
    yield partial(one.dot, other)
    yield partial(buffer.view(-1, _COLUMNS).mv, buffer.new_ones(_COLUMNS))


def _best(ways: Iterable[Callable[[], object]], device: str, repeats: int | None = None) -> float:
    """Return the fewest seconds that any of them took in any of several runs."""
    return min(_seconds(run, device) for run in ways for _ in range(repeats or _REPEATS))


def _seconds(run: Callable[[], object], device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    import torch

    make: Callable[..., Any] = torch.cuda.Event
    begin, end = make(enable_timing=True), make(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights that a pass reads: not an embedding that is only looked up.

    Of quantised weights what is stored counts: packed numbers, and their scales, which are no
    parameters.
    """
    inputs = getattr(model.get_input_embeddings(), "weight", None)
    outputs = getattr(model.get_output_embeddings(), "weight", None)
    return sum(
        _stored_bytes(each) for each in _stored(model) if each is not inputs or each is outputs
    )


def _stored(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield what a checkpoint of the model stores; its `state_dict` would repack some weights."""
    from torch import Tensor

    for weight in model.parameters():
        yield weight
        # bitsandbytes keeps scales beside a weight, 4-bit and 8-bit ones in different places.
        state, scales = getattr(weight, "quant_state", None), getattr(weight, "SCB", None)
        beside = [scales] if state is None else state.as_dict().values()
        yield from (each for each in beside if isinstance(each, Tensor))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield buffer


def _stored_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor; one of a quantised kind may be made of others."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        return sum(_stored_bytes(getattr(tensor, part)) for part in flatten()[0])
    return tensor.numel() * tensor.element_size()


def cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of keys and values that a pass reads for each committed token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_layer = 2 * heads * size * model.dtype.itemsize
    return int(config.num_hidden_layers * per_layer)
