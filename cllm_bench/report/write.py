"""Writes the files that are derived from a run's rows."""

from __future__ import annotations

import json

from cllm_bench.report.summary import summarise_folder
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import SUMMARY, ResultFolder
from cllm_bench.results.judgements import JudgeId
from cllm_bench.results.summary import Summary


def write_summary(folder: ResultFolder, judge: JudgeId | None = None) -> list[Summary]:
    """Derive `summary.json` and `table.md` from what is stored.

    Args:
        folder: Open for writing.
        judge: Whose verdicts count; None takes the newest judge's.
    """
    summaries = summarise_folder(folder, judge)
    objects = [summary.to_json() for summary in summaries]
    folder.write_text(SUMMARY, json.dumps(objects, indent=2) + "\n")
    folder.write_text("table.md", comparison_table([(folder.manifest, summaries)]))
    return summaries
