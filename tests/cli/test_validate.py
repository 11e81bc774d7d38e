"""`cllm-bench validate`: references graded, texts counted, and broken graders told."""

from __future__ import annotations

from families import cli
from telling import TASK

from cllm_bench_tasks.language_modelling.builtin.sample import (
    TEST_ARTICLES,
    text,
)


def test_validate_counts_the_text(telling, monkeypatch, capsys):
    assert cli(monkeypatch, "validate", "--task", "telling", "--plugin", telling) == 0
    shown = capsys.readouterr().out
    assert "telling (built-in): a text of" in shown
    assert "3 passages to continue" in shown


def test_validate_tells_tasks_that_grade_nothing(monkeypatch, tmp_path, capsys):
    ungraded = TASK.replace("Telling", "Asking").replace("def text", "def other")
    (tmp_path / "asking.py").write_text(ungraded, encoding="utf-8")
    assert cli(monkeypatch, "validate", "--task", "asking", "--plugin", tmp_path / "asking.py") == 0
    assert "asking (built-in): 3 questions, whose replies are not graded" in capsys.readouterr().out


def test_validate_grades_the_built_in_references(monkeypatch, capsys):
    assert cli(monkeypatch, "validate", "--task", "spider") == 0
    assert "references graded right: " in capsys.readouterr().out


def test_validate_tells_a_broken_grader(monkeypatch, tmp_path, capsys):
    from families import write_task

    plugin = write_task(tmp_path)
    plugin.write_text(plugin.read_text().replace("% 2 == 0", "% 2 == 1"))
    assert cli(monkeypatch, "validate", "--task", "counting", "--plugin", plugin) == 1
    assert "references graded right: 0 of 8" in capsys.readouterr().out


def test_validate_takes_a_task_once(monkeypatch, capsys):
    """Its settings would be told apart by nothing in what is printed."""
    assert cli(monkeypatch, "validate", "--task", "gsm8k,gsm8k:extraction=flexible") == 2
    said = capsys.readouterr()
    assert said.err == "error: task 'gsm8k' is asked for twice; make it two runs\n"
    assert said.out == ""


def test_validate_counts_the_built_in_texts(tmp_path, monkeypatch, capsys):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2 as Task\n"
        "@dataclass(frozen=True)\n"
        'class Articles(Task):\n    """Articles."""\n'
    )
    assert cli(monkeypatch, "validate", "--task", "articles", "--plugin", plugin) == 0
    shown = capsys.readouterr().out
    words = len(text("wiki", "test", TEST_ARTICLES).split())
    assert f"articles (built-in): a text of {words:,} words in " in shown
    assert "20 passages to continue; template passage-v1" in shown
    assert "no sentence of it stands in the training text" in shown
