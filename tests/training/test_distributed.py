"""Two processes on one machine, started by `accelerate launch`, train what one process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
from families import cli

from cllm_bench.training.trainer import trained_state

RECIPE = (
    "target:init=scratch,hidden=16,layers=2,heads=2,feed_forward=24,vocabulary=400,"
    "learning_rate=0.01,tokens=512,steps=20,accumulate=4"
)
HELPERS = Path(__file__).parents[1] / "helpers"


def launch(*arguments, sharded=False):
    """Run two processes to their end; return what they wrote."""
    how = ["--use_fsdp", "--fsdp_version", "2"] if sharded else ["--multi_gpu"]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *how),
        *("--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--main_process_port", 0, *arguments),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def log(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def assert_alike(left, right):
    for one, other in zip(log(left), log(right), strict=True):
        assert one == pytest.approx(other, rel=3e-5, abs=1e-4)
    expected, found = trained_state(left), trained_state(right)
    assert expected.keys() == found.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_two_processes_leave_what_one_does(monkeypatch, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["train", RECIPE, "--task", "spider:train_questions=400", "--threads", 1]
    command += ["--device", "cpu", "--output"]
    assert cli(monkeypatch, *command, one) == 0
    said = launch("-m", "cllm_bench", *command, two)
    assert [said.count(text) for text in ("tokenizer\n", "fit\n", "export\n", "Saved to")] == [
        1
    ] * 4
    assert files(two) == files(one)
    assert_alike(one / "training" / "target" / "fit", two / "training" / "target" / "fit")


def test_shards_train_what_one_process_trains(tmp_path):
    """Stopped and resumed, with adapters, in bf16, and when something goes wrong."""
    one, two = tmp_path / "one", tmp_path / "two"
    distributed_worker.main(one)
    assert "finished" in launch(HELPERS / "distributed_worker.py", two, sharded=True)
    for name in ("plain", "adapted", "chained"):
        assert_alike(one / name, two / name)
    assert [line["step"] for line in log(two / "plain")] == [0, 4, 8, 12]
    assert log(two / "bf16")[-1]["loss"] == pytest.approx(log(one / "bf16")[-1]["loss"], abs=0.02)
    expected, *both = [
        json.loads((folder / f"seen-{rank}.json").read_text().replace(str(folder), "."))
        for folder, rank in ((one, 0), (two, 0), (two, 1))
    ]
    assert both[0] == both[1]
    uneven = both[0]["uneven"]
    assert uneven.startswith("UserError: accumulate=3 micro-batches cannot be shared evenly by 2")
    assert both[0] | {"uneven": None} == expected
    assert expected["resumed"] is None
    assert "collapsed at step 1: loss is nan; the last good weights, of step 0" in expected["nan"]
    assert expected["again"] == expected["nan"]
    assert not (two / "uneven" / "log.jsonl").exists()
