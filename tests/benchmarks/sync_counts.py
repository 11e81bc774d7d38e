"""What the host does around a pass: launches, copies, and waits for the device, by method.

    python tests/benchmarks/sync_counts.py [--model mini] [--engine eager] [--dtype auto]
        [--device auto] [--output FOLDER] [--trace METHOD] [METHOD …]

Each method decodes a short and a long reply, both after a warm-up in which graphs are captured;
what the long one needs more, over its further passes, is what a pass needs. On CUDA PyTorch's own
watch counts the calls that wait for the device, and its profiler everything else; on a CPU, which
waits for nobody, operations alone are counted. `--trace` keeps the profile of one method, for
chrome://tracing or Perfetto. FOLDER gets `counts.json`, with the conditions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cllm_bench.contracts import Sampling, Source
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import build, parse_selection
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.machine.environment import environment
from cllm_bench_tasks.gsm8k import Gsm8k

SHORT, LONG = 4, 12  # tokens
METHODS = ("ar", "jacobi", "lookahead", "prompt_lookup")
WAITS = "synchronising calls"
# By column: beginnings of names that the profiler gives to what it sees.
ON_CPU: Mapping[str, tuple[str, ...]] = {"operations": ("aten::",)}
ON_CUDA: Mapping[str, tuple[str, ...]] = {
    **ON_CPU,
    "graph launches": ("cudaGraphLaunch",),
    "kernel launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "copies in": ("Memcpy HtoD",),
    "copies out": ("Memcpy DtoH",),
    "waits": ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize"),
}


class Work(Counter[str]):
    """Events by column, and under `passes` the passes of the verifying model."""


@contextmanager
def waits_counted(device: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collect PyTorch's warnings of calls that wait for the device."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if not device.startswith("cuda"):
            yield found
            return
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def work_of(reply, tokens: int, device: str, trace: Path | None) -> Work:
    """Return what one reply of so many tokens needs; `reply` decodes one."""
    reply(tokens)  # graphs are captured, memory is there
    with waits_counted(device) as warned:
        found = Work(passes=len(reply(tokens).accept_lengths))
    found[WAITS] = sum("synchroniz" in str(each.message) for each in warned)
    kinds = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as seen:
        reply(tokens)
    for event in seen.events() or ():
        for column, names in ON_CUDA.items():
            if event.name.startswith(names) and not (column == "operations" and event.cpu_parent):
                found[column] += 1
    if trace is not None:
        seen.export_chrome_trace(str(trace))
    return found


def per_pass(short: Work, long: Work, device: str) -> dict[str, float]:
    """Return what a pass needs; the prefill and what surrounds a reply cancel out."""
    passes = long["passes"] - short["passes"]
    columns = (WAITS, *ON_CUDA) if device.startswith("cuda") else tuple(ON_CPU)
    return {each: (long[each] - short[each]) / passes for each in columns} if passes else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--trace", metavar="METHOD")
    options = parser.parse_args()

    runtime = Runtime(options.device, options.dtype, engine=options.engine).resolve()
    family = find_family(options.model, runtime=runtime)
    text = Gsm8k().samples(Source()).samples[0].prompt
    prompt = torch.tensor(family.tokenizer(text).input_ids, device=runtime.device)
    registry, found = Registry(), {}
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    for name in options.methods or METHODS:
        selection = parse_selection(name)
        method = build(registry.methods.get(selection.name), "method", selection)
        decoder = method.bind(family)

        def reply(tokens, decoder=decoder):
            # No clock of the device: its own waits would be counted.
            return generate(
                decoder,
                prompt,
                sampling=Sampling(),
                max_new_tokens=tokens,
                stop_ids=(),
                clock=Clock(),
            )

        kept = options.output if options.trace == name else None
        trace = kept and kept / f"trace-{selection.name}.json.gz"
        short = work_of(reply, SHORT, runtime.device, None)
        found[name] = per_pass(short, work_of(reply, LONG, runtime.device, trace), runtime.device)
        shown = "  ".join(f"{what} {count:.1f}" for what, count in found[name].items())
        print(f"{name:24} a pass: {shown or 'one pass was enough'}", flush=True)
    result = {
        "per_pass": found,
        "runtime": dataclasses.asdict(runtime),
        "model": family.name,
        **dataclasses.asdict(environment(runtime.device)),
    }
    if options.output:
        file = options.output / "counts.json"
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
