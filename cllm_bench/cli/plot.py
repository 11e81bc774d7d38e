"""The command `plot`: the pictures of the report as files."""

from __future__ import annotations

from pathlib import Path

from cllm_bench.api.options import PlotOptions
from cllm_bench.api.results import stored_runs
from cllm_bench.cli.progress import say
from cllm_bench.core.files import refuse_foreign, write_atomically, writing
from cllm_bench.errors import UserError, did_you_mean
from cllm_bench.report.page.html import task_pictures
from cllm_bench.report.page.pictures import FORMATS, MARK, file_content


def plot_command(options: PlotOptions) -> None:
    """Write each picture to a file of its own, in place of an older one.

    Raises:
        UserError: A folder holds no run, its rows are damaged, there is no such format, nothing to
            draw, or a file is not one of this command's or cannot be written.
    """
    if not options.folders:
        raise UserError("FOLDERS is missing: name at least one folder that `run` wrote")
    kind = next((each for each in FORMATS if each == options.picture_format), None)
    if kind is None:
        given = options.picture_format
        raise UserError(f"no picture format named '{given}'; {did_you_mean(given, FORMATS)}")
    folder = Path(options.output or Path(options.folders[0]) / "plots")
    found = task_pictures(stored_runs(options.folders, options.judge, say))
    if not found:
        raise UserError("nothing to draw: these runs hold no figures yet")
    files = {folder / f"{picture.name}.{kind}": picture for picture in found}
    for file in files:
        refuse_foreign(file, MARK)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file, picture in files.items():
        write_atomically(file, file_content(picture, kind))
    say(f"Saved {len(files)} pictures to {folder}.")
