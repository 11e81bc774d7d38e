"""Where and how models run: one setting for all methods of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cllm_bench.errors import UserError
from cllm_bench.machine.processes import cores, processes_here

Engine = Literal["auto", "eager", "graph", "compiled"]
Attention = Literal["sdpa", "eager", "plain"]
DeviceMap = Literal["none", "auto", "balanced", "sequential"]
Products = Literal["auto", "plain"]
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device, precision, kernel, engine and threads.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
        dtype: A name in `DTYPES`, or `auto`: float32 on the CPU, bfloat16 on CUDA.
        attention: The kernel: torch's fused one (`sdpa`), transformers' `eager`, or the project's
            own `plain`. Only those that take an additive four-dimensional mask can verify several
            tokens at once.
        engine: How a decode pass is launched: operation by operation, as a captured CUDA graph, or
            as a captured graph of layers that torch.compile fused. `auto` is `eager` on a CPU; on
            CUDA each model gets the fastest that passes a self-check.
        threads: CPU threads within an operation; 0 is one for each core, or the share of them
            that falls to one of several processes.
        device_map: How the layers of a model are spread over all CUDA devices: not at all (`none`);
            `balanced` or `sequential`, as accelerate places them; or `auto`: balanced, but a model
            that takes at most half of the first device stays there.
        products: How models on a CPU multiply by their weights: each shape and number of rows by
            the kernel that a trial finds the fastest (`auto`), or all as torch does (`plain`).
    """

    device: str = "auto"
    dtype: str = "auto"
    attention: Attention = "sdpa"
    engine: Engine = "eager"
    threads: int = 0
    device_map: DeviceMap = "none"
    products: Products = "plain"

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that passes of this runtime may run on, the first one's layers first."""
        if self.device_map == "none":
            return (self.device,)
        import torch

        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))

    def resolve(self) -> Runtime:
        """Replace every `auto` by what it means on this machine, and set device and threads.

        Raises:
            UserError: An unknown dtype, a device that is not here, or settings that do not fit.
        """
        import torch

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        _check_device(device)
        if self.dtype not in ("auto", *DTYPES):
            raise UserError(f"dtype '{self.dtype}' is not one of auto, {', '.join(DTYPES)}")
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        engine = self.engine
        if engine == "auto" and (not device.startswith("cuda") or self.device_map != "none"):
            engine = "eager"
        if engine != "eager" and not device.startswith("cuda"):
            raise UserError(
                f"--engine {engine} captures CUDA graphs, and the device is {device}; "
                "use --engine eager"
            )
        if self.device_map != "none":
            _check_device_map(self.device_map, device, engine)
        if self.threads < 0:
            raise UserError(f"threads must be 0 or more, not {self.threads}")
        threads = self.threads or max(1, cores() // processes_here())
        torch.set_num_threads(threads)
        if device.startswith("cuda"):
            # cuDNN's attention plans anew for every length, which takes several passes' time.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if ":" in device:
            torch.cuda.set_device(device)  # a graph is captured on the current one
        return replace(
            self,
            device=device,
            dtype=dtype,
            engine=engine,
            threads=threads,
            products=self.products if device == "cpu" else "plain",
        )


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine of a model's passes, and how it was found.

    Attributes:
        engine: `eager`, `graph` or `compiled`.
        milliseconds: Of a pass of one row, by engine, for those that passed the self-check; empty
            where the user named the engine.
        refused: Why others cannot be used, by engine.
    """

    engine: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ProductChoice:
    """The kernels of a model's products on a CPU, and how they were found.

    Attributes:
        counts: Products of each shape that the model has, `OUTxIN`.
        rows: Numbers of rows of a pass that kernels were tried for; a pass in between runs as one
            of the next number, and a longer one is plain. Empty where nothing was tried: the model
            is too small to gain, or copies of its weights take more than a quarter of the memory
            that is free.
        kernels: The kernel for each of these numbers, by shape: `plain`, or one that reads a packed
            copy of the weight.
        milliseconds: Of all products of a pass, or of its first layers if the model is large, for
            each of these numbers: by kernel, as far as it was tried, and those `chosen`.
        copied_bytes: Packed copies.
        refused: Why others cannot be used, by kernel.
    """

    counts: Mapping[str, int]
    rows: tuple[int, ...] = ()
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    milliseconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    copied_bytes: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


def choice(option: str, text: str, kind: Any) -> Any:
    """Return what the user chose of a `Literal` type.

    Raises:
        UserError: It is none of its values.
    """
    if text not in get_args(kind):
        raise UserError(f"--{option} {text} is not one of {', '.join(get_args(kind))}")
    return text


def _check_device_map(device_map: DeviceMap, device: str, engine: Engine) -> None:
    if device != "cuda":
        raise UserError(
            f"--device-map {device_map} spreads a model over all CUDA devices, and the device is "
            f"{device}; leave out --device-map, or use --device cuda"
        )
    if engine != "eager":
        raise UserError(
            f"--engine {engine} captures passes of one device, and --device-map {device_map} "
            "spreads a model over several; use --engine eager"
        )


def _check_device(device: str) -> None:
    import torch

    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"device '{device}' is not cpu, cuda or cuda:N")
    if not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"device '{device}' is not on this machine; use --device cpu")
