"""An edited program never goes on with the rows of the old one, however deep the edit lies."""

import importlib
import sys

import pytest

from cllm_bench.machine.environment import code_hash, code_place


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a class two folders down."""
    deep = tmp_path / "planted_package" / "inner" / "deeper"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent, deep.parent.parent):
        (folder / "__init__.py").write_text("")
    (deep / "module.py").write_text("class Planted:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield deep
    for name in [name for name in sys.modules if name.startswith("planted_package")]:
        del sys.modules[name]


def test_a_class_belongs_to_its_top_package(package):
    planted = importlib.import_module("planted_package.inner.deeper.module").Planted
    assert code_place(planted) == package.parent.parent


def test_a_file_two_folders_down_counts(package):
    top = package.parent.parent
    before = code_hash(top)
    assert code_hash(top) == before
    (package / "module.py").write_text("class Planted:\n    edited = True\n")
    assert code_hash(top) != before


def test_a_moved_file_counts(package):
    top = package.parent.parent
    before = code_hash(top)
    (package / "module.py").rename(package.parent / "module.py")
    assert code_hash(top) != before
