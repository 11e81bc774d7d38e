"""What is shown while something long runs: on a terminal of 80 columns, and in a file."""

import io
import re

import pytest
from rich.console import Console

from cllm_bench.cli import progress
from cllm_bench.cli.progress import LiveProgress

LONG = "loss 0.1234, " + ", ".join(f"held_out_figure_{number} 0.5" for number in range(40))


def test_a_narrow_terminal_shows_step_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(progress, "DRAWN", 0.0)
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    with LiveProgress(console) as live:
        for step in range(4):
            live(LONG, step, 4000)
    drawn = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))
    newest = [line for line in drawn if "3/4000" in line][-1]
    assert newest.startswith("loss 0.1234")
    assert re.search(r"(/s|s each) 0:00:\d\d left \S+$", newest.rstrip())
    assert max(map(len, drawn)) <= 80


@pytest.mark.parametrize("what", ["spider · repeat 1 of 3", "[red]not markup[/red]"])
def test_without_a_terminal_there_is_a_line_every_so_often(what):
    console, now = Console(width=80, file=io.StringIO()), [100.0]
    with LiveProgress(console, lambda: now[0]) as live:
        for done in range(0, 121, 10):
            live(what, done, 600)
            now[0] += 10.0
    lines = console.file.getvalue().splitlines()
    assert [line.split(":")[1].split(",")[0] for line in lines if line] == [
        " 30 of 600",
        " 60 of 600",
        " 90 of 600",
        " 120 of 600",
    ]
    assert all(line.startswith(f"{what}: ") for line in lines if line)
    assert lines[1].endswith("1.0/s, 0:01:00 gone, 0:09:00 left")
