"""Whether a run fits on its device is told before any weights are loaded."""

from families import cli

from cllm_bench.engine.memory import Footprint
from cllm_bench.machine import memory as machine_memory
from cllm_bench.measurement.memory import Need, memory_needed
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.hf_generate import HfAssisted, HfGenerate
from cllm_bench_methods.jacobi import Jacobi
from cllm_bench_methods.medusa import Medusa
from cllm_bench_methods.speculative import Speculative

GB = 10**9
TARGET = Footprint(weights=14 * GB, cache_per_token=500_000, logits_per_row=192_000, positions=4096)
DRAFT = Footprint(weights=2 * GB, cache_per_token=100_000, logits_per_row=192_000)
HEADS = Footprint(weights=GB)


def spec(method):
    name = type(method).__name__.lower()
    return MethodSpec(name, name, method, "ar", "exact")


def test_weights_are_counted_once_and_caches_for_each_session():
    specs = [*map(spec, (Autoregressive(), Jacobi(), Speculative(), Medusa()))]
    roles = {"target": TARGET, "draft": DRAFT, "medusa": HEADS}
    *found, reserve = memory_needed(specs, roles, tokens=1500)
    assert found == [
        Need("target weights", 14 * GB),
        Need("draft weights", 2 * GB),
        Need("medusa weights", GB),
        # Four sessions on the target and one on the draft; one more compares replies.
        Need("caches of 6 sequences of 1,500 tokens", 2048 * (5 * 500_000 + 100_000)),
        Need("logits", 128 * 192_000),
    ]
    assert reserve == Need("reserve", round(0.1 * sum(need.size for need in found)))


def test_what_a_library_loads_counts_once_more():
    specs = [*map(spec, (Autoregressive(), HfGenerate(), HfAssisted()))]
    found = dict(memory_needed(specs, {"target": TARGET, "draft": DRAFT}, tokens=100))
    assert found["target weights once more for a library"] == 14 * GB
    assert found["draft weights once more for a library"] == 2 * GB


def test_a_run_that_does_not_fit_is_refused_before_it_loads(
    tmp_path, tiny, monkeypatch, capsys, command
):
    def loaded(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("cllm_bench.engine.loading.load_weights", loaded)
    monkeypatch.setattr(machine_memory, "free_memory", lambda _: 200_000)
    asked = ["--method", "jacobi", "--method", "hf_generate", "--data", tmp_path]
    assert cli(monkeypatch, *command, *asked, "--output", tmp_path / "out") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "of memory on cpu, and 0.191 MiB are free: target weights 0.1" in told
    assert "target weights once more for a library" in told
    assert "--dtype bfloat16" in told
    assert not (tmp_path / "out").exists()


def test_what_fits_one_set_of_checkpoints_at_a_time_is_told_so(
    tmp_path, tiny, monkeypatch, capsys, command
):
    monkeypatch.setattr(machine_memory, "free_memory", lambda _: 2_400_000)
    asked = ["--method", "jacobi", "--method", "jacobi:checkpoint=other", "--data", tmp_path]
    asked += ["--limit", 1, "--repeats", 1, "--output", tmp_path / "out"]
    assert cli(monkeypatch, *command, *asked) == 2
    assert "set of checkpoints at a time with --phases" in " ".join(capsys.readouterr().err.split())
    assert cli(monkeypatch, *command, *asked, "--phases") == 0
    monkeypatch.setattr(machine_memory, "free_memory", lambda _: 200_000)
    assert cli(monkeypatch, *command, *asked, "--phases") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "phase 1 of the run needs" in told
    assert "with --phases" not in told
