"""Models that are spread over several devices: the same replies, no mix-up, nothing offloaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from families import cli, write_checkpoint

from cllm_bench.engine import loading, memory
from cllm_bench.engine.cache import is_spread
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.clock import device_clock
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.loading import load_model
from cllm_bench.engine.memory import Footprint, placement
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError

CPU = Runtime("cpu", "float32", threads=1)
GPUS = Runtime("cuda", "bfloat16", device_map="auto")
FAKE = Path(__file__).parents[1] / "helpers" / "two_fake_devices.py"
PARTS = ("embed_tokens", "rotary_emb", "layers.0", "layers.1", "norm")
ON_ONE = dict.fromkeys([*(f"model.{part}" for part in PARTS), "lm_head"], "cpu")


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(str(write_checkpoint(tmp_path / "target")))


def test_a_spread_model_answers_as_a_whole_one(checkpoint):
    """All hooks are there, and all layers on one device, since values are only there."""
    whole = load_model(checkpoint, CPU)
    spread = loading.load_weights(checkpoint, CPU).eval()
    skipped = spread._skip_keys_device_placement
    dispatch_model(spread, ON_ONE, force_hooks=True, skip_keys=skipped)
    spread.hf_device_map = ON_ONE | {"lm_head": "another"}
    fuse(spread)
    assert (is_spread(whole), is_spread(spread)) == (False, True)
    assert all(hasattr(layer, "_hf_hook") for layer in spread.model.layers)
    depth, mask = torch.tensor([0, 1, 1]), torch.ones(3, 3, dtype=torch.bool).tril()
    found = []
    for model in (whole, spread):
        session = Session(model, capacity=8)
        logits = [session.prefill(torch.tensor([1, 2, 3, 4])).logits]
        logits.append(session.forward([5, 6, 7], depth=depth, mask=mask).logits)
        session.keep(torch.tensor([0, 2]))
        output = session.forward([9] * 12, hidden=True)
        session.keep(3)
        found.append([*logits, output.logits, output.hidden, session.forward([3]).logits])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_on_two_devices_nothing_is_mixed_up():
    done = subprocess.run(
        [sys.executable, FAKE], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "logits": ["fake:0"],
        "hidden": "fake:0",
        "rows": [1, 3, 3, 16],
        "cache": ["fake:0", "fake:0", "fake:1", "fake:1"],
        "mixed": "raises",
        "length": 5 + 2 + 2 + 16,
    }


def test_what_would_lie_on_the_disk_is_refused(checkpoint, monkeypatch, tmp_path):
    limits = {"max_memory": {"cpu": 60_000}, "offload_folder": str(tmp_path / "offload")}
    monkeypatch.setattr(loading, "placement", lambda *_: {"device_map": "sequential", **limits})
    with pytest.raises(UserError, match="layers would be left in disk") as refused:
        load_model(checkpoint, CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("weights", "device_map", "expected"),
    [(40, "auto", "cuda"), (60, "auto", "auto"), (40, "balanced", "balanced")],
)
def test_a_small_model_stays_whole(monkeypatch, weights, device_map, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(memory, "free_memory", {"cuda:0": 100, "cuda:1": 200}.get)
    monkeypatch.setattr(memory, "footprint", lambda *_: Footprint(weights))
    runtime = Runtime("cuda", "bfloat16", device_map=device_map)
    found = placement(Checkpoint("someone/some-model"), runtime)
    assert found["device_map"] == expected
    if expected != "cuda":
        assert found["max_memory"] == {0: 85, 1: 170}  # and nothing of the host's memory


def test_the_clock_waits_for_every_device(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: None)
    assert device_clock(*GPUS.devices).seconds() > 0
    assert waited == ["cuda:0", "cuda:1", "cuda:2"]


def test_what_does_not_go_with_it_is_refused_in_one_line(
    tmp_path, tiny, monkeypatch, capsys, command
):
    asked = ["--method", "jacobi", "--device-map", "auto", "--device", "cpu"]
    assert cli(monkeypatch, *command, *asked, "--output", tmp_path / "out") == 2
    assert "spreads a model over all CUDA devices" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="captures passes of one device"):
        Runtime("cuda", "bfloat16", engine="graph", device_map="auto").resolve()
