import pytest

from cllm_bench.contracts import Method, Objective, Recipe, Task
from cllm_bench.core.registry import Registry
from cllm_bench.errors import UserError

GOOD = '''
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class TwoAtOnce:
    """Two tokens at once."""
    exactness: ClassVar[str] = "lossy"
    checkpoint: str = "target"
    def bind(self, family):
        raise RuntimeError

@dataclass(frozen=True)
class _Hidden(TwoAtOnce):
    pass
'''


def test_built_ins_come_in_by_entry_points_and_keep_their_contracts():
    registry = Registry()
    assert set(registry.methods.names()) >= {"ar", "jacobi"}
    assert "spider" in registry.tasks.names()
    assert "target" in registry.recipes.names()
    doors = {
        registry.methods: Method,
        registry.tasks: Task,
        registry.recipes: Recipe,
        registry.objectives: Objective,
    }
    for door, contract in doors.items():
        for entry in door.entries():
            assert entry.error is None, entry
            assert isinstance(entry.cls(), contract)


def test_the_baseline_declares_itself():
    name, cls = Registry().baseline()
    assert cls.baseline
    assert name in Registry().methods.names()


def test_a_plugin_file_and_a_folder(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    for path in (tmp_path / "mine.py", tmp_path):
        registry = Registry([path])
        assert registry.methods.get("two_at_once").__doc__ == "Two tokens at once."
        assert "_hidden" not in registry.methods.names()
        assert not registry.broken


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_plugin_that_fails_to_import_breaks_only_itself(tmp_path, source, reason):
    (tmp_path / "bad.py").write_text(source)
    (tmp_path / "good.py").write_text(GOOD)
    registry = Registry([tmp_path])
    assert [entry.name for entry in registry.broken] == ["bad"]
    assert reason in registry.broken[0].error
    assert "two_at_once" in registry.methods.names()
    with pytest.raises(UserError, match=r"no method named 'bad', and a plugin is broken: .*bad.py"):
        registry.methods.get("bad")


def test_a_broken_entry_point_is_reported_with_its_reason(monkeypatch):
    from importlib.metadata import EntryPoint

    import cllm_bench.core.registry as module

    real = module.entry_points

    def patched(group):
        bad = [
            EntryPoint("gone", "no_such_package:Thing", group),
            EntryPoint("odd", "cllm_bench.errors:did_you_mean", group),
            EntryPoint("bare", "cllm_bench.engine.clock:Clock", group),
        ]
        return [*real(group=group), *(bad if group == "cllm_bench.methods" else [])]

    monkeypatch.setattr(module, "entry_points", patched)
    registry = Registry()
    errors = {entry.name: entry.error for entry in registry.methods.entries() if entry.error}
    assert "ModuleNotFoundError" in errors["gone"]
    assert "is not a class" in errors["odd"]
    assert "lacks exactness, bind" in errors["bare"]
    with pytest.raises(UserError, match="method 'gone' from no_such_package:Thing is broken"):
        registry.methods.get("gone")
    assert registry.baseline()


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UserError, match=r"no method named 'jacoby'; did you mean 'jacobi'\?"):
        Registry().methods.get("jacoby")
    with pytest.raises(UserError, match=r"no task named 'zzz'; known: .*spider"):
        Registry().tasks.get("zzz")


def test_a_plugin_may_not_take_a_taken_name(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD.replace("TwoAtOnce", "Jacobi"))
    with pytest.raises(UserError, match="registers method 'jacobi'"):
        Registry([tmp_path / "mine.py"])


def test_a_plugin_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no plugin at"):
        Registry([tmp_path / "nothing.py"])
    with pytest.raises(UserError, match="has no Python files"):
        Registry([tmp_path])
