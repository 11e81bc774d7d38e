"""Isolation that this machine offers, and the refusal of less than full isolation."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sandbox_programs import DOUBLE, REFUSE, crippled

import cllm_bench.sandbox.sandbox as sandbox_module
from cllm_bench.errors import UserError
from cllm_bench.sandbox import isolation as sandbox_strength
from cllm_bench.sandbox.isolation import ATTACKS, Strength, attack_code, require, strength, targets

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_namespaces_the_other_walls_do(box, monkeypatch):
    if "Landlock" in strength().walls_missing:
        pytest.skip("no Landlock here")
    found = crippled(monkeypatch, REFUSE + "linux.unshare = refuse")
    assert found.full
    assert {"namespaces", "process namespace"} <= found.walls_missing.keys()
    assert "not today" in str(found)


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_landlock_namespaces_do(box, monkeypatch):
    if "namespaces" in strength().walls_missing:
        pytest.skip("no namespaces here")
    found = crippled(monkeypatch, REFUSE + "linux.allow_paths = refuse")
    assert found.full
    assert list(found.walls_missing)[-1] == "Landlock"


@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_without_any_wall_the_dangers_are_named(box, monkeypatch):
    names = ("unshare", "allow_paths", "filter_system_calls")
    found = crippled(monkeypatch, REFUSE + "".join(f"linux.{name} = refuse\n" for name in names))
    assert not found.full
    assert {"files", "network", "other processes", "lasting processes"} <= found.missing.keys()
    assert {"memory", "processor time"} <= set(found.holds)
    with pytest.raises(UserError, match=r"programs can reach your files.*--allow-unsafe-code"):
        require(found, allowed=False)
    require(found, allowed=True)


WEAK = Strength(("memory",), {"files": "programs can reach your files"}, {"Landlock": "too old"})


def test_less_than_full_isolation_is_refused_until_allowed(box, monkeypatch):
    monkeypatch.setattr(sandbox_module, "strength", lambda: WEAK)
    monkeypatch.setattr(sandbox_strength, "_less_is_allowed", False)
    with pytest.raises(UserError, match=r"reach your files \(Landlock: too old\)"):
        box.grade("def f(x): return 2 * x", "f", DOUBLE)
    sandbox_strength.allow_unsafe_code()
    assert box.grade("def f(x): return 2 * x", "f", DOUBLE).passed


def test_strength_can_be_shown_and_stored():
    assert str(WEAK) == (
        "sandbox: isolation is not full; protected: memory; programs can reach your files; "
        "not to be had: Landlock: too old"
    )
    assert WEAK.as_dict() == {
        "holds": ["memory"],
        "missing": {"files": "programs can reach your files"},
        "walls_missing": {"Landlock": "too old"},
    }
    full = Strength(tuple(ATTACKS), {}, {})
    assert str(full).startswith("sandbox: full isolation; protected: files, environment")
    require(full, allowed=False)


@pytest.mark.parametrize("name", ["files", "environment", "network", "other processes"])
def test_attacks_succeed_outside_the_sandbox(name):
    """Otherwise their failure inside would mean nothing."""
    names: dict = {}
    exec(attack_code(name), names)
    with (
        targets() as facts,
        subprocess.Popen(["sleep", "60"]) as other,
    ):
        facts["processes"].append(other.pid)
        assert names["attack"](facts)
        other.kill()
