"""The command line. Heavy imports live inside the commands, so that help is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cllm_bench import __version__
from cllm_bench.api.options import (
    AblateOptions,
    CheckMethodOptions,
    CheckTaskOptions,
    CompareOptions,
    JudgeOptions,
    ListOptions,
    NewMethodOptions,
    OverlapOptions,
    PlotOptions,
    ProfileOptions,
    ReportOptions,
    RunOptions,
    TableOptions,
    TrainOptions,
    ValidateOptions,
)
from cllm_bench.cli.options import command
from cllm_bench.core.printable import printable
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


@command(app, RunOptions, short_help="Measure methods on tasks.", config=True)
def run(options: RunOptions) -> None:
    """Measure methods on tasks: speed, quality and exactness, paired with the baseline.

    Repeat the command to continue after an interruption.
    """
    from cllm_bench.cli.run import run_command

    run_command(options)


@command(app, JudgeOptions, short_help="Have the replies of a run graded by another model.")
def judge(options: JudgeOptions) -> None:
    """Have the replies of a run graded by another model.

    Repeat the command to ask only for what is missing.
    """
    from cllm_bench.cli.judge import judge_command

    judge_command(options)


@command(app, TableOptions, short_help="Make the comparison table of stored runs.")
def table(options: TableOptions) -> None:
    """Make the comparison table of stored runs from their rows alone."""
    from cllm_bench.cli.table import table_command

    table_command(options)


@command(app, CompareOptions, short_help="Compare two stored runs.")
def compare(options: CompareOptions) -> None:
    """Compare two stored runs, from their rows alone: is B faster, slower, better or worse than A?

    Only questions with the same prompts in both count; what else differs is shown first.
    """
    from cllm_bench.cli.compare import compare_command

    compare_command(options)


@command(app, ReportOptions, short_help="Make one HTML page about stored runs.")
def report(options: ReportOptions) -> None:
    """Make one HTML page about stored runs: verdict, pictures, tables, replies side by side.

    The page is complete in itself: it opens without a network and runs no script.
    """
    from cllm_bench.cli.report import report_command

    report_command(options)


@command(app, PlotOptions, short_help="Write the pictures of the report as files.")
def plot(options: PlotOptions) -> None:
    """Write the pictures of the report as files of their own, SVG or PNG."""
    from cllm_bench.cli.plot import plot_command

    plot_command(options)


@command(app, ListOptions, name="list", short_help="List methods, tasks, recipes and families.")
def list_command(options: ListOptions) -> None:
    """List methods, tasks, recipes and bundled families, and broken plugins with their reason."""
    from cllm_bench.cli.listing import show

    show(options)


@command(app, TrainOptions, short_help="Train a checkpoint by a recipe.", config=True)
def train(options: TrainOptions) -> None:
    """Train a checkpoint by a recipe.

    Repeat the command to continue after an interruption.
    """
    from cllm_bench.cli.train import train_command

    train_command(options)


@command(app, AblateOptions, short_help="Train variants of a recipe and compare them.", config=True)
def ablate(options: AblateOptions) -> None:
    """Train variants of a recipe, measure all of them in one run, and tabulate the differences.

    The recipe without changes is trained too. A setting that recipe and method share, such as the
    block size, follows the recipe where it is varied or set, unless --method gives it. Repeat the
    command to continue after an interruption.
    """
    from cllm_bench.cli.ablate import ablate_command

    ablate_command(options)


@command(app, ProfileOptions, short_help="Time the forward passes of a model.")
def profile(options: ProfileOptions) -> None:
    """Time forward passes of 1 to 256 tokens, and say what settling several tokens could gain."""
    from cllm_bench.cli.profile import profile_command

    profile_command(options)


@command(app, ValidateOptions, short_help="Grade the reference answers of each task.")
def validate(options: ValidateOptions) -> None:
    """Grade the reference answers of each task: a score below 100% is an error of the grader."""
    from cllm_bench.cli.validate import validate_command

    validate_command(options)


@command(app, NewMethodOptions, short_help="Write the file of a new method.")
def new_method(options: NewMethodOptions) -> None:
    """Write a Python file with a working method, and mark where your idea goes."""
    from cllm_bench.cli.new_method import new_command

    new_command(options)


@command(app, CheckMethodOptions, short_help="Check that a method keeps its contract.")
def check_method(options: CheckMethodOptions) -> None:
    """Check that a method is exact, starts anew, stops, rolls back, samples … on tiny models."""
    from cllm_bench.cli.check import check_command

    check_command(options)


@command(app, CheckTaskOptions, short_help="Check that a task keeps its contract.")
def check_task(options: CheckTaskOptions) -> None:
    """Check that a task is deterministic, grades its own answers right and keeps splits apart."""
    from cllm_bench.cli.check import check_task_command

    check_task_command(options)


@command(app, OverlapOptions, short_help="Look for test questions in a training set.")
def overlap(options: OverlapOptions) -> None:
    """Look for test questions in a training set: identical ones and near-duplicates."""
    from cllm_bench.cli.overlap import overlap_command

    overlap_command(options)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"cllm-bench {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a user error is one line and exit code 2, a collapse code 1."""
    try:
        app()
    except TrainingCollapsed as error:
        if is_main():  # every process of a launch ends so
            typer.echo(printable(f"error: {error}"), err=True)
        sys.exit(1)
    except UserError as error:
        where = "" if is_main() else f"process {rank()}: "
        typer.echo(printable(f"{where}error: {error}"), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
