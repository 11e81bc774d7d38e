"""The program's own options."""

from families import cli


def test_help_and_version(monkeypatch, capsys):
    assert cli(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("cllm-bench ")
    assert cli(monkeypatch, "run", "--help") == 0
    assert "--method" in capsys.readouterr().out


def test_unknown_options_exit_with_2(monkeypatch):
    assert cli(monkeypatch, "run", "--no-such-option") == 2
    assert cli(monkeypatch, "nothing") == 2
