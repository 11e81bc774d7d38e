"""The command `table`: a comparison from stored rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cllm_bench.errors import UserError

if TYPE_CHECKING:
    pass


def table_command(folders: Sequence[Path], output: Path | None, judge: str | None) -> str:
    """Return the table of earlier runs, and write it where it is wanted.

    Raises:
        UserError: A folder holds no run, none has verdicts of that judge, or several judges are
            meant.
    """
    from cllm_bench.core.files import write_atomically
    from cllm_bench.report.judged import find_judge_id
    from cllm_bench.report.summary import summarise_folder
    from cllm_bench.report.tables import markdown
    from cllm_bench.results.folder import ResultFolder

    read = [ResultFolder.read(path) for path in folders]
    judgements = [each for folder in read for each in folder.judgements]
    chosen = None if judge is None else find_judge_id(judge, judgements)
    runs = []
    for folder in read:
        for warning in folder.warnings:
            typer.echo(f"note: {warning}", err=True)
        if "ablation" in folder.manifest.get("configuration", {}):
            run = folder.path / "run"
            raise UserError(f"'{folder.path}' holds an ablation; its run is in '{run}'")
        runs.append((folder.manifest, summarise_folder(folder, chosen)))
    text = markdown(runs)
    if output is not None:
        write_atomically(output, text)
    return text
