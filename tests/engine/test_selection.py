"""The engine that `auto` chooses on a GPU; here with captures that are plain calls."""

import json

import pytest
import torch
from families import write_checkpoint

from cllm_bench.engine import fused_layers, selection
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.cuda_graphs import Captures, GraphSession
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import EngineChoice, Runtime
from cllm_bench.engine.selection import fastest_engine
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench.report.notes import engines


def replayed(run):
    run()
    return run


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A family on CUDA, as far as its engines know."""
    monkeypatch.setattr(fused_layers, "_compiled_parts", lambda _: fused_layers._PLAIN)
    runtime = Runtime("cpu", "float32", engine="auto", threads=1)
    found = find_family(str(write_checkpoint(tmp_path / "llama")), runtime=runtime)
    found.captures = Captures(replayed)
    return found


def with_times(monkeypatch, times):
    """Let passes take times by engine."""

    def seconds(session, clock):
        kind = "eager" if type(session) is Session else "graph"
        return times["compiled" if getattr(session, "_compiled", False) else kind]

    monkeypatch.setattr(selection, "_seconds", seconds)


@pytest.mark.parametrize("fastest", ["eager", "graph", "compiled"])
def test_the_fastest_is_taken(family, monkeypatch, fastest):
    times = {"eager": 0.003, "graph": 0.002, "compiled": 0.0025} | {fastest: 0.001}
    with_times(monkeypatch, times)
    session = family.session("target")
    found = family.engines["target"]
    assert found.engine == fastest
    assert found.milliseconds == pytest.approx({name: 1000 * s for name, s in times.items()})
    assert isinstance(session, GraphSession) == (fastest != "eager")
    assert not family.take_passes()  # the check's own are no method's


def test_an_engine_that_answers_otherwise_is_refused(family, monkeypatch):
    with_times(monkeypatch, {"eager": 0.003, "graph": 0.002, "compiled": 0.001})
    own = GraphSession._fixed_pass

    def wrong(session, *args):
        logits, states = own(session, *args)
        return (logits + 1.0, states) if session._compiled else (logits, states)

    monkeypatch.setattr(GraphSession, "_fixed_pass", wrong)
    family.session("target")
    found = family.engines["target"]
    assert found.engine == "graph"
    assert found.refused == {"compiled": "its logits differ by 1"}


def test_an_engine_that_fails_is_refused_and_told(family, monkeypatch):
    with_times(monkeypatch, {"eager": 0.003})

    def fails(run):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    family.captures = Captures(fails)
    family.session("target")
    (line,) = engines(family.engines)
    assert "engine of target: eager, the fastest that passed a self-check" in line
    assert "ms for a pass of one row: eager 3" in line
    assert "graph cannot be used (LlamaForCausalLM cannot be captured as a graph" in line


def test_a_model_that_the_eager_engine_cannot_run_is_no_choice():
    def refuse(engine):
        raise UserError("it has no room")

    with pytest.raises(UserError, match="it has no room"):
        fastest_engine(refuse, Clock())


def test_a_run_goes_on_with_the_engine_it_began_with(family, monkeypatch):
    with_times(monkeypatch, {"eager": 0.003, "graph": 0.002, "compiled": 0.001})
    family.engines["target"] = EngineChoice(engine="graph", milliseconds={"graph": 2.0})
    session = family.session("target")
    assert isinstance(session, GraphSession)
    assert not session._compiled


def test_an_engine_that_is_named_is_not_checked(family):
    named = family.unloaded(runtime=Runtime("cpu", "float32", engine="eager", threads=1))
    assert type(named.session("target")) is Session
    assert named.engines == {"target": EngineChoice(engine="eager")}
    assert not list(engines(named.engines))


def test_auto_is_eager_on_a_cpu_and_open_on_cuda(monkeypatch):
    assert Runtime("cpu", engine="auto", threads=1).resolve().engine == "eager"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Runtime("cuda", engine="auto", threads=1).resolve().engine == "auto"


def test_what_was_captured_can_be_stored():
    captures = Captures(replayed)
    captures.capture(lambda: None)
    assert json.loads(json.dumps(captures.totals()))["count"] == 1
