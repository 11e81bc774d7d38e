"""The scripts of a first hour with a GPU, tried on a CPU with tiny models."""

import importlib.util
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from synthetic import cell, failed, manifest, row

from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.report.summary import summarise
from cllm_bench_methods.medusa.heads import read_heads

HERE = Path(__file__).parent


def script(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def random_family(tmp_path_factory):
    """A family of tiny random models, as the script writes one."""
    folder = tmp_path_factory.mktemp("random")
    patch = pytest.MonkeyPatch()
    asked = ["random_llama.py", str(folder), "--target", "tiny", "--draft", "tiny"]
    patch.setattr("sys.argv", [*asked, "--cllm", "--medusa"])
    module = script("random_llama")
    patch.setattr(module, "POOL", 2**14 + 1)
    module.main()
    patch.undo()
    runtime = Runtime("cpu", "float32", threads=1).resolve()
    return find_family(str(folder), runtime=runtime)


def test_a_random_family_is_one_that_runs(random_family):
    target, cllm = (random_family.model(role) for role in ("target", "cllm"))
    shapes = script("random_llama").SHAPES["tiny"]
    assert target.config.hidden_size == shapes.hidden
    assert target.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert bool((target.model.norm.weight == 1).all())
    assert not torch.equal(target.lm_head.weight, cllm.lm_head.weight)
    assert len(set(map(tuple, target.lm_head.weight.tolist()))) == shapes.vocabulary
    assert read_heads(random_family.checkpoint("medusa")).attach(target, 4).parameters > 0
    assert random_family.vocabulary("draft") == shapes.vocabulary


def test_the_work_around_a_pass_is_counted(random_family, monkeypatch, tmp_path, capsys):
    module = script("sync_counts")
    monkeypatch.setattr(module, "find_family", lambda *_, **__: random_family)
    monkeypatch.setattr(module, "LONG", 6)
    asked = ["sync_counts.py", "--device", "cpu", "--output", str(tmp_path), "--trace", "ar"]
    monkeypatch.setattr("sys.argv", [*asked, "ar"])
    module.main()
    found = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    assert list(found["per_pass"]) == ["ar"]
    assert found["machine"]["device"] == "cpu"
    assert found["per_pass"]["ar"]["operations"] > 10
    assert (tmp_path / "trace-ar.json.gz").stat().st_size > 1000
    assert "a pass: operations" in capsys.readouterr().out


def test_what_a_pass_needs_is_a_difference():
    """A prefill of 90 launches and four reads of a clock are no part of it."""
    module = script("sync_counts")
    names = {"kernel launches": 12, "copies out": 1, "graph launches": 1, "copies in": 1}
    short, long = (
        Counter({name: 90 + passes * count for name, count in names.items()})
        | Counter({"waits": 4 + passes, "passes": passes})
        for passes in (3, 11)
    )
    found = module.per_pass(short, long, "cuda")
    assert {name: found[name] for name in names} == names
    assert (found["waits"], found["synchronising calls"], found["operations"]) == (1, 0, 0)
    assert module.per_pass(short, short, "cuda") == {}


def test_wrong_rows_are_called_wrong():
    module = script("verdicts")
    used = manifest(cell("ar"), cell("jacobi"))

    def found(reply):
        return list(module.faults(summarise(used, [row("ar", "q0"), reply])[1]))

    assert found(row("jacobi", "q0")) == found(row("jacobi", "q0", verdict="tie")) == []
    assert found(row("jacobi", "q0", verdict="mismatch")) == ["1 differ"]
    assert found(row("jacobi", "q0", verdict=None)) == ["nothing was compared"]
    assert found(failed("jacobi", "q0"))[0] == "1 failed (OutOfMemoryError: no memory)"


def test_parts_have_names():
    done = subprocess.run([HERE / "gpu_rows.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "smoke|rows|full" in done.stderr
