"""The command line. Heavy imports live inside the commands, so that help is instant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cllm_bench import __version__
from cllm_bench.cli.inspection import checks
from cllm_bench.cli.options import (
    Attention,
    Data,
    Device,
    Dtype,
    Engine,
    JudgeModel,
    JudgeUrl,
    Limit,
    Model,
    NoiseFloor,
    Plugins,
    RecipeText,
    Repeats,
    Results,
    Role,
    Seed,
    Tasks,
    Temperature,
    Threads,
    TopP,
    Unsafe,
)
from cllm_bench.engine.family import DEFAULT
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.machine.processes import is_main, rank

app = typer.Typer(
    name="cllm-bench",
    help="Does this way of decoding really make a language model faster, by how much, "
    "and what does it cost in quality?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(short_help="Measure methods on tasks.")
def run(
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="NAME[:key=value,…]; repeat it for more rows in the table."),
    ] = None,
    task: Tasks = None,
    model: Model = DEFAULT,
    role: Role = None,
    data: Data = None,
    limit: Limit = None,
    repeats: Repeats = 3,
    output: Results = None,
    seed: Seed = 0,
    noise_floor: NoiseFloor = True,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = "sdpa",
    engine: Engine = "eager",
    threads: Threads = 0,
    judge: JudgeModel = None,
    judge_url: JudgeUrl = None,
    unsafe: Unsafe = False,
    plugin: Plugins = None,
) -> None:
    """Measure methods on tasks: speed, quality and exactness, paired with the baseline."""
    from cllm_bench.api.run import RunOptions
    from cllm_bench.cli.run import run_command

    options = RunOptions(
        methods=tuple(method or ()),
        tasks=tuple(task or ()),
        model=model,
        roles=tuple(role or ()),
        data=tuple(data or ()),
        limit=limit,
        repeats=repeats,
        output=output,
        seed=seed,
        noise_floor=noise_floor,
        temperature=temperature,
        top_p=top_p,
        device=device,
        dtype=dtype,
        attention=attention,
        engine=engine,
        threads=threads,
        unsafe=unsafe,
        plugins=tuple(plugin or ()),
        judge=judge,
        judge_url=judge_url,
    )
    with _interruptible():
        run_command(options)


@app.command("judge", short_help="Have the replies of a run graded by another model.")
def judge_(
    run: Annotated[Path, typer.Argument(help="A folder that `run` left.")],
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            help="A folder or an id on the Hub, or with --judge-url the name that the model has "
            "there.",
        ),
    ],
    judge_url: JudgeUrl = None,
    data: Data = None,
    parallel: Annotated[int, typer.Option(help="Requests at once.")] = 4,
    device: Device = "auto",
    threads: Threads = 0,
    plugin: Plugins = None,
) -> None:
    """Have the replies of a run graded by another model; repeat it to ask for what is missing."""
    from cllm_bench.cli.judge import JudgeOptions, judge_command

    options = JudgeOptions(
        run=run,
        judge=judge,
        url=judge_url,
        data=tuple(data or ()),
        parallel=parallel,
        device=device,
        threads=threads,
        plugins=tuple(plugin or ()),
    )
    with _interruptible():
        judge_command(options)


@app.command(short_help="Make tables from stored rows alone.")
def table(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `run` left.")],
    output: Annotated[Path | None, typer.Option(help="Write the Markdown here too.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Whose verdicts to show, NAME or NAME@IDENTITY; default: the newest's."),
    ] = None,
) -> None:
    """Make the comparison table from stored rows alone."""
    from cllm_bench.api.results import table as make_table
    from cllm_bench.cli.progress import say
    from cllm_bench.core.files import write_atomically

    text = make_table(*folders, judge=judge, tell=say)
    if output is not None:
        write_atomically(output, text)
    sys.stdout.write(text)


@app.command("list", short_help="Show what there is, and what is broken.")
def list_command(plugin: Plugins = None) -> None:
    """Show methods, tasks, recipes and bundled families; broken plugins with their reason."""
    from cllm_bench.cli.listing import show

    show(tuple(plugin or ()))


@app.command(short_help="Train a checkpoint by a recipe.")
def train(
    recipe: RecipeText,
    output: Annotated[Path, typer.Option(help="The family directory to leave.")],
    task: Tasks = None,
    model: Model = DEFAULT,
    role: Role = None,
    data: Data = None,
    device: Device = "auto",
    threads: Threads = 0,
    unsafe: Unsafe = False,
    plugin: Plugins = None,
) -> None:
    """Train a checkpoint by a recipe; repeat the command to go on after an interruption."""
    from cllm_bench.cli.train import TrainOptions, train_command

    options = TrainOptions(
        recipe=recipe,
        tasks=tuple(task or ()),
        model=model,
        roles=tuple(role or ()),
        data=tuple(data or ()),
        output=output,
        device=device,
        threads=threads,
        unsafe=unsafe,
        plugins=tuple(plugin or ()),
    )
    with _interruptible():
        train_command(options)


@app.command(short_help="Train variants of a recipe and compare them.")
def ablate(
    recipe: RecipeText,
    output: Annotated[Path, typer.Option(help="Folder of trainings, run and table.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="KEY=VALUE|VALUE: values of a setting, each a variant; a value may carry others, "
            "as in KEY=VALUE+OTHER=VALUE; repeatable.",
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Every combination of the values, not one --vary at a time."),
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(help="NAME[:key=value,…] that decodes; default: named as the recipe's role."),
    ] = None,
    task: Tasks = None,
    model: Model = DEFAULT,
    role: Role = None,
    data: Data = None,
    limit: Limit = None,
    repeats: Repeats = 3,
    device: Device = "auto",
    threads: Threads = 0,
    unsafe: Unsafe = False,
    plugin: Plugins = None,
) -> None:
    """Train variants of a recipe, measure all in one run, and tabulate what each change did.

    The base is trained too. A setting that recipe and method share, such as a block size, follows
    the recipe where it is varied or set, unless --method gives it. Repeat the command to go on
    after an interruption.
    """
    from cllm_bench.ablation.plan import AblateOptions
    from cllm_bench.cli.ablate import ablate_command

    options = AblateOptions(
        recipe=recipe,
        vary=tuple(vary or ()),
        grid=grid,
        method=method,
        tasks=tuple(task or ()),
        model=model,
        roles=tuple(role or ()),
        data=tuple(data or ()),
        limit=limit,
        repeats=repeats,
        output=output,
        device=device,
        threads=threads,
        unsafe=unsafe,
        plugins=tuple(plugin or ()),
    )
    with _interruptible():
        ablate_command(options)


app.registered_commands += checks.registered_commands


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"cllm-bench {__version__}")
        raise typer.Exit


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; what is stored stays: repeat the command to go on", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; a user error is one line and exit code 2, a collapse code 1."""
    try:
        app()
    except TrainingCollapsed as error:
        if is_main():  # every process of a launch ends so
            typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except UserError as error:
        where = "" if is_main() else f"process {rank()}: "
        typer.echo(f"{where}error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
