"""The command `table`: the comparison table of stored runs."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from cllm_bench.api.options import TableOptions
from cllm_bench.api.results import read_runs, written
from cllm_bench.cli.progress import say
from cllm_bench.cli.screen import show
from cllm_bench.core.files import write_atomically
from cllm_bench.errors import UserError


def table_command(options: TableOptions) -> None:
    """Show the runs on a terminal; print their table elsewhere, or write it where that is named.

    Raises:
        UserError: A folder holds no run, its rows are damaged, or there is no such format.
    """
    if not options.folders:
        raise UserError("FOLDERS is missing: name at least one folder that `run` wrote")
    runs = read_runs(*options.folders, judge=options.judge, tell=say)
    text = written(runs, options.table_format)
    if options.output is not None:
        write_atomically(Path(options.output), text)
    if Console().is_terminal:
        show(runs, [Path(folder) for folder in options.folders])
    else:
        sys.stdout.write(text)
