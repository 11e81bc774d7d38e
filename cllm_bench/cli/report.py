"""The command `report`: one HTML file about stored runs."""

from __future__ import annotations

from pathlib import Path

from cllm_bench.api.options import ReportOptions
from cllm_bench.api.results import report
from cllm_bench.cli.progress import say
from cllm_bench.core.files import refuse_foreign, write_atomically
from cllm_bench.errors import UserError
from cllm_bench.report.page.html import MARK


def report_command(options: ReportOptions) -> None:
    """Write the page, in place of an older one.

    Raises:
        UserError: A folder holds no run, its rows are damaged, or the file is not one of this
            command's or cannot be written.
    """
    if not options.folders:
        raise UserError("FOLDERS is missing: name at least one folder that `run` wrote")
    file = Path(options.output or Path(options.folders[0]) / "report.html")
    refuse_foreign(file, MARK)
    write_atomically(file, report(*options.folders, judge=options.judge, tell=say))
    say(f"Saved to {file}. Open it in a browser: it is one file and needs no network.")
