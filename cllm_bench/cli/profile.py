"""The command `profile`: times the passes of a model and stores table, plot and figures."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from cllm_bench.api.options import ProfileOptions
from cllm_bench.cli.progress import LiveProgress
from cllm_bench.core.files import write_atomically, writing
from cllm_bench.engine.family import find_family
from cllm_bench.engine.family_file import describe_family
from cllm_bench.engine.runtime import Attention, DeviceMap, Engine, Products, Runtime, choice
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import environment
from cllm_bench.measurement.profile import CONTEXTS, ROWS, measure
from cllm_bench.report.profile import Profile, ProfileManifest, profile_report, stored_profile


def profile_command(options: ProfileOptions) -> None:
    """Measure, store and show.

    Raises:
        UserError: There is no such model or device, or the folder holds something.
    """
    named = describe_family(options.model, options.roles)
    named.checkpoint(options.checkpoint)  # before torch is loaded: a wrong name is told at once
    default = f"{named.name.replace('/', '--')}-{options.checkpoint}-profile"
    output = Path(options.output or Path("results") / default)
    _refuse(output)
    attention = choice("attention", options.attention, Attention)
    threads = options.threads or named.threads
    engine = choice("engine", options.engine, Engine)
    device_map = choice("device-map", options.device_map, DeviceMap)
    products = choice("products", options.products, Products)
    runtime = Runtime(
        options.device, options.dtype, attention, engine, threads, device_map, products
    ).resolve()
    family = find_family(options.model, roles=options.roles, runtime=runtime)
    console = Console(stderr=True)
    with LiveProgress(console) as progress:
        found = measure(family, options.checkpoint, ROWS, CONTEXTS, progress)
    manifest = ProfileManifest(
        **vars(environment(runtime.device)),
        runtime=runtime,
        engines=dict(family.engines),
        products=dict(family.products),
    )
    _store(output, found, manifest)
    Console(highlight=False).print(Markdown(profile_report(found, manifest)))
    console.print(
        f"stored in {output} (profile.md, passes.png, profile.json)", soft_wrap=True, style="dim"
    )


def _refuse(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"'{output}' holds something already; pick another --output")


def _store(output: Path, found: Profile, manifest: ProfileManifest) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(stored_profile(found, manifest), indent=2)
    write_atomically(output / "profile.json", figures + "\n")
    write_atomically(output / "profile.md", profile_report(found, manifest))
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
