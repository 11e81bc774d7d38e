"""The command `table`: the comparison table of stored runs."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from cllm_bench.api.options import TableOptions
from cllm_bench.api.results import read_runs
from cllm_bench.cli.progress import say
from cllm_bench.cli.screen import show
from cllm_bench.core.files import write_atomically
from cllm_bench.errors import UserError
from cllm_bench.report.tables import comparison_table


def table_command(options: TableOptions) -> None:
    """Show the runs on a terminal; print their Markdown elsewhere, or write it where that is named.

    Raises:
        UserError: A folder holds no run, or its rows are damaged.
    """
    if not options.folders:
        raise UserError("FOLDERS is missing: name at least one folder that `run` wrote")
    runs = read_runs(*options.folders, judge=options.judge, tell=say)
    text = comparison_table(runs)
    if options.output is not None:
        write_atomically(Path(options.output), text)
    if Console().is_terminal:
        show(runs, [Path(folder) for folder in options.folders])
    else:
        sys.stdout.write(text)
