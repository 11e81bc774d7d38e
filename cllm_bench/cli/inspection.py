"""The commands that look at parts: tasks, methods, data and models; `cli.py` takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cllm_bench.cli.options import (
    Attention,
    Checkpoint,
    Data,
    Device,
    Dtype,
    Engine,
    Model,
    Ngram,
    Plugins,
    Report,
    Results,
    Role,
    Tasks,
    TestQuestions,
    Threads,
    Threshold,
    TrainQuestions,
    Unsafe,
)
from cllm_bench.engine.family import DEFAULT

checks = typer.Typer()


@checks.command(short_help="Time a model's passes, whatever method runs them.")
def profile(
    model: Model = DEFAULT,
    checkpoint: Checkpoint = "target",
    role: Role = None,
    output: Results = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = "sdpa",
    engine: Engine = "eager",
    threads: Threads = 0,
) -> None:
    """Time passes of 1 to 256 tokens, and say what a method could gain by settling several."""
    from cllm_bench.cli.profile import ProfileOptions, profile_command

    roles = tuple(role or ())
    profile_command(
        ProfileOptions(model, checkpoint, roles, output, device, dtype, attention, engine, threads)
    )


@checks.command(short_help="Grade each task's reference answers.")
def validate(
    task: Tasks = None, data: Data = None, unsafe: Unsafe = False, plugin: Plugins = None
) -> None:
    """Feed each task its own reference answers: whatever is below 100% is the grader's fault."""
    from cllm_bench.cli.validate import validate_command

    validate_command(tuple(task or ()), tuple(data or ()), tuple(plugin or ()), unsafe=unsafe)


@checks.command(short_help="Write a method of your own to start from.")
def new_method(
    name: Annotated[str, typer.Argument(help="Of the method, such as my_idea.")],
    output: Annotated[Path | None, typer.Option(help="The file; default: NAME.py here.")] = None,
) -> None:
    """Write a Python file with a method that works, and says where your idea goes."""
    from cllm_bench.cli.new_method import new_command

    new_command(name, output)


@checks.command(short_help="Check that a method keeps its contract.")
def check_method(
    method: Annotated[str, typer.Argument(help="NAME[:key=value,…]")],
    model: Annotated[
        str | None,
        typer.Option(help="A family, as for `run`, in place of tiny random models."),
    ] = None,
    role: Role = None,
    plugin: Plugins = None,
) -> None:
    """Check that a method is exact, starts anew, stops, rolls back, samples … on tiny models."""
    from cllm_bench.cli.check import check_command

    check_command(method, tuple(plugin or ()), model, tuple(role or ()))


@checks.command(short_help="Check that a task keeps its contract.")
def check_task(
    task: Annotated[str, typer.Argument(help="NAME[:key=value,…]")],
    data: Annotated[
        Path | None, typer.Option(help="The data's folder, in place of the built-in sample.")
    ] = None,
    unsafe: Unsafe = False,
    plugin: Plugins = None,
) -> None:
    """Check that a task asks the same again, grades its answers right and keeps splits apart."""
    from cllm_bench.cli.check import check_task_command

    check_task_command(task, data, tuple(plugin or ()), unsafe=unsafe)


@checks.command(short_help="Look for test questions in a training set.")
def overlap(
    train: TrainQuestions,
    test: TestQuestions,
    ngram: Ngram = 5,
    threshold: Threshold = 0.7,
    output: Report = None,
    plugin: Plugins = None,
) -> None:
    """Look for test questions in a training set: the same ones, and near-duplicates."""
    from cllm_bench.cli.overlap import OverlapOptions, overlap_command

    options = OverlapOptions(
        train=train,
        test=test,
        ngram=ngram,
        threshold=threshold,
        output=output,
        plugins=tuple(plugin or ()),
    )
    overlap_command(options)
