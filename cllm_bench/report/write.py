"""Writes the files that are derived from a run's rows."""

from __future__ import annotations

import json
from typing import Any

from cllm_bench.report.summary import summarise_folder
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.judgements import JudgeId


def write_summary(folder: ResultFolder, judge: JudgeId | None = None) -> list[dict[str, Any]]:
    """Derive `summary.json` and `table.md` from what is stored.

    Args:
        folder: Open for writing.
        judge: Whose verdicts count; None takes the newest judge's.
    """
    summaries = summarise_folder(folder, judge)
    folder.write_text("summary.json", json.dumps(summaries, indent=2) + "\n")
    folder.write_text("table.md", comparison_table([(folder.manifest, summaries)]))
    return summaries
