"""What `profile` does: times the passes of one model, and leaves table, plot and figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown

from cllm_bench.cli.progress import LiveProgress
from cllm_bench.contracts import Listen, Sampling
from cllm_bench.core.files import write_atomically, writing
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import parse_pairs
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.runtime import Attention, Engine, Runtime, choice
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import environment
from cllm_bench.report.profile import Profile, markdown
from cllm_bench.results.pass_times import Shape

if TYPE_CHECKING:
    from cllm_bench.engine.clock import Clock

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 2048)
DECODED = 64  # tokens, to see what is spent outside the passes
DECODINGS = 7


@dataclass(frozen=True)
class ProfileOptions:
    """The options of `profile`, as given."""

    model: str
    role: str
    roles: tuple[str, ...]
    output: Path | None
    device: str
    dtype: str
    attention: str
    engine: str
    threads: int


def profile_command(options: ProfileOptions) -> None:
    """Measure, store and show.

    Raises:
        UserError: There is no such model or device, or the folder holds something.
    """
    checkpoints = parse_pairs(options.roles, "--role")
    named = find_family(options.model, roles=checkpoints)
    named.checkpoint(options.role)  # before torch is loaded: a wrong name is told at once
    default = f"{named.name.replace('/', '--')}-{options.role}-profile"
    output = options.output or Path("results") / default
    _refuse(output)
    attention = choice("attention", options.attention, Attention)
    threads = options.threads or named.threads
    engine = choice("engine", options.engine, Engine)
    runtime = Runtime(options.device, options.dtype, attention, engine, threads).resolve()
    family = find_family(options.model, roles=checkpoints, runtime=runtime)
    console = Console(stderr=True)
    with LiveProgress(console) as progress:
        found = measure(family, options.role, ROWS, CONTEXTS, progress)
    manifest = environment(runtime.device) | {"runtime": dataclasses.asdict(runtime)}
    _store(output, found, manifest)
    Console(highlight=False).print(Markdown(markdown(found, manifest)))
    console.print(
        f"stored in {output} (profile.md, passes.png, profile.json)", soft_wrap=True, style="dim"
    )


def measure(
    family: ModelFamily,
    role: str,
    rows: Sequence[int],
    contexts: Sequence[int],
    listen: Listen,
) -> Profile:
    """Time the passes of one model.

    Args:
        family: With a resolved runtime.
        role: Whose weights.
        rows: Numbers of new tokens, the first of them 1.
        contexts: Cached tokens; those that the model has no positions for are left out.
        listen: Told what runs.

    Raises:
        UserError: The model has no positions for the shortest context.
    """
    from cllm_bench.engine.clock import device_clock
    from cllm_bench.engine.pass_timing import time_passes, time_prefill
    from cllm_bench.machine.roofline import cache_bytes, copy_bandwidth, weight_bytes

    listen("loading the weights", 0, 1)
    clock, model = device_clock(family.runtime.device), family.model(role)
    room = family.session(role).room
    fitting = [context for context in contexts if context + 1 <= room]
    if not fitting:
        raise UserError(
            f"'{role}' has room for {room} tokens, and passes are timed from {min(contexts)} on"
        )
    seconds, prefill = [], []
    for done, context in enumerate(fitting):
        listen(f"{context:,} tokens cached", done, len(fitting) + 1)
        shapes = [Shape(role, count, False) for count in rows]
        times = time_passes(family, shapes, context, clock)
        seconds.append(tuple(times.get(shape) for shape in shapes))
        prefill.append(time_prefill(family, role, context, clock))
    listen("what is spent outside the passes", len(fitting), len(fitting) + 1)
    return Profile(
        family.name,
        role,
        tuple(rows),
        tuple(fitting),
        tuple(seconds),
        tuple(prefill),
        _outside(family, role, min(DECODED, room - 1), clock),
        weight_bytes(model),
        cache_bytes(model),
        copy_bandwidth(family.runtime.device),
    )


def _outside(family: ModelFamily, role: str, tokens: int, clock: Clock) -> float:
    """Return the share of the baseline's decode time that is outside its forward passes."""
    import statistics

    import torch

    from cllm_bench.decoding.loop import generate

    _, baseline = Registry().baseline()
    model, calls = family.model(role), list[float]()
    decoder = baseline(checkpoint=role).bind(family)
    prompt = torch.zeros(1, dtype=torch.long, device=model.device)
    forward = model.forward

    def timed(*args: Any, **inputs: Any) -> Any:
        start = clock.seconds()
        output = forward(*args, **inputs)
        calls.append(clock.seconds() - start)
        return output

    shares = []
    model.__dict__["forward"] = timed
    try:
        for _ in range(DECODINGS):
            calls.clear()
            found = generate(
                decoder,
                prompt,
                sampling=Sampling(),
                max_new_tokens=tokens,
                stop_ids=(),
                clock=clock,
            )
            shares.append(1 - sum(calls[1:]) / found.decode_seconds)  # the first is the prefill
    finally:
        del model.__dict__["forward"]
    return statistics.median(shares)


def _refuse(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"'{output}' holds something already; pick another --output")


def _store(output: Path, found: Profile, manifest: dict[str, Any]) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    figures = {"profile": found.to_json(), "manifest": manifest}
    write_atomically(output / "profile.json", json.dumps(figures, indent=2) + "\n")
    write_atomically(output / "profile.md", markdown(found, manifest))
    with writing(output):
        _draw(found, output / "passes.png")


def _draw(found: Profile, file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for context, column in zip(found.contexts, found.seconds, strict=True):
        points = [(r, 1000 * s) for r, s in zip(found.rows, column, strict=True) if s is not None]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{context:,} tokens cached")
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.rows, [str(rows) for rows in found.rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows: new tokens of a pass")
    axes.set_ylabel("milliseconds")
    axes.set_title(f"A pass of {found.model} ({found.role})")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
