"""Runs in phases: one set of checkpoints at a time, the same replies, and a table that says so."""

import gc
import json
import weakref

import pytest
from families import SMALL, cli, rows

from cllm_bench.engine import loading
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.phases import split_into_phases
from cllm_bench.results.folder import ResultFolder
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.cllm import Cllm
from cllm_bench_methods.hf_generate import HfGenerate
from cllm_bench_methods.jacobi import Jacobi
from cllm_bench_methods.medusa import Medusa
from cllm_bench_methods.speculative import Speculative

METHODS = ("jacobi", "cllm", "speculative", "medusa")


def spec(method):
    name = type(method).__name__.lower()
    return MethodSpec(f"{name} {method.checkpoint}", name, method, "ar", "exact")


def test_methods_go_with_those_that_need_the_same_weights():
    methods = [Autoregressive(), Jacobi(), Autoregressive(checkpoint="cllm"), Cllm()]
    methods += [Medusa(), Speculative(), HfGenerate()]
    found = split_into_phases([*map(spec, methods)])
    assert [[each.name for each in phase] for phase in found] == [
        ["autoregressive", "cllm"],
        ["autoregressive", "jacobi", "medusa"],  # target and heads: the target alone lies within
        ["speculative"],
        ["hfgenerate"],  # a second copy of the target's weights
    ]
    together = split_into_phases([*map(spec, methods[:2])])
    assert [len(phase) for phase in together] == [2]


class Loaded:
    """Which models are there each time another one is loaded."""

    def __init__(self, monkeypatch):
        self.models = []
        self.most = 0
        self.loads = 0
        own = loading.load_model

        def load(checkpoint, runtime):
            gc.collect()
            model = own(checkpoint, runtime)
            self.models = [each for each in self.models if each() is not None]
            self.models.append(weakref.ref(model))
            self.most = max(self.most, len(self.models))
            self.loads += 1
            return model

        monkeypatch.setattr(loading, "load_model", load)


def command(out, *more):
    asked = [flag for method in METHODS for flag in ("--method", method)]
    common = ["--task", "spider", "--limit", 1, "--repeats", 1, "--threads", 1, "--device", "cpu"]
    return ["run", "--model", SMALL, *asked, *common, *more, "--output", out]


@pytest.fixture(scope="module")
def phased(tmp_path_factory):
    out = tmp_path_factory.mktemp("phased") / "out"
    with pytest.MonkeyPatch.context() as patch:
        loaded = Loaded(patch)
        assert cli(patch, *command(out, "--phases")) == 0
    return out, loaded


def replies(folder):
    return {
        (row["method"], row["sample"]): (row["token_ids"], row["verdict"], row["score"])
        for row in rows(folder)
    }


def test_replies_and_verdicts_are_those_of_an_interleaved_run(phased, tmp_path, monkeypatch):
    together = Loaded(monkeypatch)
    assert cli(monkeypatch, *command(tmp_path / "out")) == 0
    assert replies(phased[0]) == replies(tmp_path / "out")
    assert "in phases" not in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert together.most == 3  # target, cllm and draft; heads are no model
    assert phased[1].most == 2  # target and draft
    # Backwards once for the manifest, and forwards: the first phase stays loaded.
    assert phased[1].loads == 1 + 2 + 1 + 2 + 1


def test_the_table_says_who_was_not_interleaved(phased):
    folder = ResultFolder.read(phased[0])
    found = {cell.method: cell.phase for cell in folder.manifest.cells}
    assert found["ar"] == found["ar A/A"] == found["jacobi"] == found["speculative"]
    assert found["cllm"] == found["ar:checkpoint=cllm"]
    assert len({found[name] for name in ("ar", "cllm", "medusa")}) == 3
    attempts = [row["method"] for row in rows(phased[0])]
    order = list(dict.fromkeys(found[method] for method in attempts))
    assert order == [0, 1, 2]
    table = (phased[0] / "table.md").read_text(encoding="utf-8")
    assert "measured in 3 phases, one set of checkpoints at a time" in table
    assert "so these speedups are not paired in time" in table
    timed = {each.shape for each in folder.pass_times}
    assert timed == {shape for row in folder.rows for shape in row.pass_shapes}


def test_an_interrupted_run_goes_on_with_the_phase_that_it_was_in(phased, monkeypatch):
    folder, _ = phased
    file = folder / "samples.jsonl"
    whole = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in whole if json.loads(line)["method"] != "medusa"]
    file.write_text("".join(kept), encoding="utf-8")
    expected = replies(folder)
    assert cli(monkeypatch, *command(folder, "--phases")) == 0
    again = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert again[: len(kept)] == kept
    assert len(again) == len(whole)
    assert {key: found for key, found in replies(folder).items() if key in expected} == expected
    assert {row["verdict"] for row in rows(folder) if row["method"] == "medusa"} == {"exact"}
    assert cli(monkeypatch, *command(folder)) == 2  # another order is another run


def test_perplexities_are_measured_while_their_weights_are_loaded(
    tmp_path, tiny, telling, monkeypatch
):
    """On two checkpoints, each with a library's copy: at any time one model of the family's."""
    loaded, out = Loaded(monkeypatch), tmp_path / "out"
    asked = ["run", "--model", tiny[0], "--plugin", telling, "--task", "telling", "--phases"]
    for method in ("jacobi", "hf_generate", "ar:checkpoint=other"):
        asked += ["--method", method]
    more = ["--repeats", 1, "--threads", 1, "--device", "cpu", "--output", out]
    assert cli(monkeypatch, *asked, *more) == 0
    assert loaded.most == 1
    folder = ResultFolder.read(out)
    assert {each.checkpoint for each in folder.perplexities.values()} == {"target", "other"}
    phases = {cell.method: cell.phase for cell in folder.manifest.cells}
    assert phases["hf_generate"] == phases["jacobi"] != phases["ar:checkpoint=other"]
    assert {row.verdict for row in folder.rows} == {"exact"}
