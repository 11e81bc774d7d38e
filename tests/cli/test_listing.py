"""`cllm-bench list`: every plugin, and those that are broken."""

from families import cli


def test_list_shows_everything_and_what_is_broken(monkeypatch, tmp_path, capsys):
    (tmp_path / "bad.py").write_text("import no_such_module")
    monkeypatch.setenv("COLUMNS", "200")
    assert cli(monkeypatch, "list", "--plugin", tmp_path / "bad.py") == 0
    shown = capsys.readouterr().out
    for word in ("jacobi", "block_size=16", "spider", "target", "mini"):
        assert word in shown
    assert "broken: bad" in shown
    assert "No module named 'no_such_module'" in shown
