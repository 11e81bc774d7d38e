"""The command `compare`: two stored runs beside each other, and whether limits are broken."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console

from cllm_bench.api.options import CompareOptions
from cllm_bench.api.results import compare
from cllm_bench.cli.progress import say
from cllm_bench.errors import UserError
from cllm_bench.report.comparison.text import check_line, comparison_text


def compare_command(options: CompareOptions) -> None:
    """Print the comparison, as text or as one JSON document.

    Raises:
        UserError: A folder holds no run, a limit is none, or the figures answer it for no method.
        Exit: With code 1, where a limit is broken.
    """
    found = compare(options.a, options.b, judge=options.judge, fail_if=options.fail_if, tell=say)
    if options.json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
        for check in found.checks:
            say(check_line(check))
    else:
        sys.stdout.write(comparison_text(found, Console().width))
    for check in found.checks:
        if not check.measured:
            reasons = dict.fromkeys(each.reason for each in check.pairs if each.reason)
            why = "; ".join(reasons) or "the two runs have no figures for it in common"
            raise UserError(f"--fail-if {check.limit} cannot be checked: {why}")
    if any(check.outcome == "holds" for check in found.checks):
        raise typer.Exit(1)
