"""The command `table`: the comparison table of stored runs."""

from __future__ import annotations

import sys
from pathlib import Path

from cllm_bench.api.options import TableOptions
from cllm_bench.api.results import table
from cllm_bench.cli.progress import say
from cllm_bench.core.files import write_atomically
from cllm_bench.errors import UserError


def table_command(options: TableOptions) -> None:
    """Print the table, and write it to a file where one is named.

    Raises:
        UserError: A folder holds no run, its rows are damaged, or there is no such format.
    """
    if not options.folders:
        raise UserError("FOLDERS is missing: name at least one folder that `run` wrote")
    text = table(*options.folders, judge=options.judge, tell=say, table_format=options.table_format)
    if options.output is not None:
        write_atomically(Path(options.output), text)
    sys.stdout.write(text)
