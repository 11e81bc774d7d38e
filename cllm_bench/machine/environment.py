"""Records everything that somebody needs to repeat a run: machine, versions, source state."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cllm_bench.machine.interference import driver_name
from cllm_bench.machine.processes import cores

PACKAGES = (
    *("cllm-bench", "torch", "transformers", "accelerate", "datasets", "numpy", "tokenizers"),
    # Where they are installed: what multiplies quantised weights.
    *("bitsandbytes", "torchao", "gptqmodel", "compressed-tensors", "kernels"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is timed on.

    Attributes:
        platform: Operating system, kernel and architecture.
        cpu: Name of the processor.
        cores: Cores that this process may use.
        device: Device of the run, such as `cpu` or `cuda:0`.
        gpu: Name of the GPU; None for a run on the CPU, like all that follow on it.
        gpu_memory_bytes: Memory of the GPU, in bytes.
        cuda: Version of CUDA that torch was built with.
        driver: Version of the GPU's driver.
        clocks_and_throttling: SM clock, memory clock, reasons for slower clocks and power draw, as
            `nvidia-smi` reports them.
        attention_kernels: Kernels of CUDA's scaled dot-product attention that are enabled.
        load_average_1min: Runnable processes at the start, averaged over one minute.
    """

    platform: str
    cpu: str
    cores: int
    device: str
    gpu: str | None = None
    gpu_memory_bytes: int | None = None
    cuda: str | None = None
    driver: str | None = None
    clocks_and_throttling: str | None = None
    attention_kernels: tuple[str, ...] | None = None
    load_average_1min: float | None = None


@dataclass(frozen=True)
class GitState:
    """The checkout that the package ran from.

    Attributes:
        commit: Full hash of the commit.
        changed_files: Tracked files that differed from it.
    """

    commit: str
    changed_files: int = 0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What somebody needs to repeat a command.

    Attributes:
        argv: The command line.
        created: Time of the start in UTC, in ISO 8601.
        versions: Versions of Python and of the packages that decide results, by name.
        machine: The computer and the device.
        git: The checkout; None for an installed package.
    """

    argv: tuple[str, ...]
    created: str
    versions: Mapping[str, str]
    machine: Machine
    git: GitState | None = None


def environment(device: str) -> Environment:
    """Return machine, versions, source state, command line and time."""
    return Environment(
        argv=(Path(sys.argv[0]).name, *sys.argv[1:]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=machine(device),
        git=git_state(Path(__file__).parent),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> Machine:
    """Return what the run is timed on."""
    found: dict[str, Any] = {}
    if device.startswith("cuda"):
        import torch

        properties = torch.cuda.get_device_properties(device)
        asked = ("nvidia-smi", "-i", driver_name(device), "--format=csv,noheader")
        found = {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _output(*asked, "--query-gpu=driver_version"),
            "clocks_and_throttling": _output(
                *asked, "--query-gpu=clocks.sm,clocks.mem,clocks_event_reasons.active,power.draw"
            ),
            "attention_kernels": tuple(
                name
                for name in ("flash", "mem_efficient", "cudnn", "math")
                if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
            ),
        }
    return Machine(
        platform=platform.platform(),
        cpu=_cpu_name(),
        cores=cores(),
        device=device,
        load_average_1min=os.getloadavg()[0],
        **found,
    )


def git_state(folder: Path) -> GitState | None:
    """Return commit and cleanliness of the checkout that the package runs from, if it is one."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    # Only tracked files count: results that a run leaves behind do not change what it ran.
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return GitState(commit, len((status or "").splitlines()))


def code_place(cls: type) -> Path:
    """Return where the code of a class is: the folder of its top package, or a plugin's file."""
    place = Path(inspect.getfile(cls))
    while (place.parent / "__init__.py").exists():
        place = place.parent
    return place


def code_hash(place: Path) -> str:
    """Return a SHA-256 over a Python file, or over all Python files below a folder."""
    total = hashlib.sha256()
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    for file in files:
        name = file.relative_to(place).as_posix() if place.is_dir() else place.name
        total.update(f"{name}\0".encode() + file.read_bytes())
    return total.hexdigest()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
