"""What the README says works as it stands there."""

import json
import re
from pathlib import Path

import pytest
from families import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_plugins_of_the_readme_run(monkeypatch, tmp_path):
    plugin = tmp_path / "mine.py"
    task = (ROOT / "docs" / "writing-a-task.md").read_text(encoding="utf-8")
    plugin.write_text("\n".join(blocks("python") + blocks("python", task)), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["--plugin", plugin, "--method", "repeat_last", "--task", "capitals,spider"]
    options = ["--limit", 4, "--repeats", 1, "--threads", 1, "--output", out]
    assert cli(monkeypatch, "run", *arguments, *options) == 0
    summaries = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    found = {(each["task"], each["method"]): each for each in summaries}
    assert set(found) == {
        (task, method)
        for task in ("capitals", "spider")
        for method in ("ar", "ar A/A", "repeat_last")
    }
    assert all(each["exact_match"] == 1.0 for each in found.values())


def test_every_command_names_options_that_exist(monkeypatch, capsys):
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    lines = [line for text in texts for each in blocks("bash", text) for line in each.splitlines()]
    commands = [line for line in lines if line.startswith("cllm-bench ")]
    assert commands
    for line in commands:
        name = line.split()[1]
        assert cli(monkeypatch, name, "--help") == 0
        shown = capsys.readouterr().out
        for option in re.findall(r"--[a-z]+", line.partition("#")[0]):
            assert option in shown, line


@pytest.mark.parametrize("folder", ["cllm_bench", "methods", "tasks"])
def test_the_file_tree_names_every_room(folder):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.partition("## File tree")[2].split("```")[1]
    for path in (ROOT / folder).glob("[!_]*"):
        if path.is_dir() or path.suffix == ".py":
            assert path.name in tree, path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target.partition("#")[0]
        assert target.startswith("https://") or file.exists(), target
