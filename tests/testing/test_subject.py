"""Roles that a method needs beside its checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from broken_methods import Chain, Plain

from cllm_bench.errors import UserError
from cllm_bench.testing.methods import MethodSuite


class Tabled(Plain):
    def guess(self):
        return self.table


@dataclass(frozen=True)
class WithTable(Chain):
    """Guesses from a table that lies in a folder of its own."""

    extra_roles: ClassVar[tuple[str, ...]] = ("table",)

    def bind(self, family):
        file = Path(family.checkpoint("table").location) / "table.json"
        if not file.exists():
            raise UserError(f"no table at '{file}'")
        decoder = Tabled(self, family.session(self.checkpoint))
        decoder.table = json.loads(file.read_text())
        return decoder


@pytest.mark.usefixtures("few_models")
def test_a_role_of_another_kind_is_skipped_or_built():
    skipped = MethodSuite(WithTable, [], None, None, None)
    assert skipped.result("binding").status == "skipped"
    assert skipped.result("binding").message.startswith("role 'table' needs more than an ordinary")
    assert skipped.result("exactness").message == "not tried, for no model was accepted"

    def write(folder, target):
        assert (target / "config.json").exists()
        folder.mkdir()
        (folder / "table.json").write_text("[1, 2]")

    built = MethodSuite(WithTable, [], None, None, {"table": write})
    assert [built.result(name).status for name in ("binding", "steps", "exactness")] == [
        "passed"
    ] * 3
