"""The command `run`: progress while it runs, then the verdict, and where everything is stored."""

from __future__ import annotations

import typer
from rich.console import Console

from cllm_bench.api.options import RunOptions
from cllm_bench.api.run import PreparedRun
from cllm_bench.cli.progress import LiveProgress, say
from cllm_bench.cli.screen import show


def run_command(options: RunOptions) -> None:
    """Plan, run, summarise and show.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        Exit: With code 1, where a sample failed, or a judge was asked and a reply has no rating.
    """
    console = Console(stderr=True)
    prepared = PreparedRun(options, say)
    with LiveProgress(console) as progress:
        result = prepared.execute(progress)
    show([(result.manifest, result.summaries)], [result.folder])
    if result.captures["count"]:
        console.print(
            f"captured {result.captures['count']} graphs in {result.captures['seconds']:.1f} s, "
            "outside of all times"
        )
    if result.judge is not None and result.judged is not None:
        from cllm_bench.cli.judge import report

        report(console, result.judge, result.judged, result.folder)
    if result.failed:
        console.print(
            f"{result.failed} samples failed: see the rows with finish=failed", style="red"
        )
        raise typer.Exit(1)
