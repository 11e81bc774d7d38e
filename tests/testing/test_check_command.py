"""The command `check-method`."""

import pytest
from families import cli

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from cllm_bench_methods.ar import AutoregressiveDecoder

@dataclass(frozen=True)
class Mine:
    """One token a pass."""
    exactness = "exact"
    checkpoint: str = "target"

    def bind(self, family):
        return AutoregressiveDecoder(family.session(self.checkpoint))
'''


@pytest.mark.parametrize(
    ("change", "arguments", "code", "message"),
    [
        (("", ""), [], 0, "3 checks: 2 passed, 1 skipped"),
        (('"""One token a pass."""', ""), [], 1, "declaration: Mine has no docstring"),
        (("Mine", "Other"), [], 2, "error: no method named 'mine'"),
        (("", ""), ["--role", "draft=nowhere"], 2, "no folder"),
    ],
)
def test_check_method(monkeypatch, tmp_path, capsys, change, arguments, code, message):
    few = ("declaration", "binding", "bonus_token")
    monkeypatch.setattr("cllm_bench.cli.check.CHECKS", few)
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.replace(*change))
    asked = ["check-method", "mine", "--plugin", plugin, *arguments]
    assert cli(monkeypatch, *asked) == code
    shown = capsys.readouterr()
    assert message in shown.out + shown.err


def test_a_role_that_is_missing_is_a_user_s_error(monkeypatch, tmp_path, capsys):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        PLUGIN.replace('= "target"', '= "target"\n    extra_roles = ("table",)').replace(
            "return Auto", "raise UserError('no table')\n        return Auto"
        )
        + "\nfrom cllm_bench.errors import UserError\n"
    )
    assert cli(monkeypatch, "check-method", "mine", "--plugin", plugin) == 2
    assert "nothing was decoded: role 'table' needs more than" in capsys.readouterr().err
