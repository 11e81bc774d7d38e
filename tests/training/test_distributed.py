"""Two processes on one machine train what one process trains."""

import json
import os
import subprocess
import sys

import distributed_worker
import forked
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from families import cli

from cllm_bench.training.trainer import trained_state

RECIPE = (
    "target:init=scratch,hidden=16,layers=2,heads=2,feed_forward=24,vocabulary=400,"
    "learning_rate=0.01,tokens=512,steps=20,accumulate=4"
)


def launch(flags, folder, function, *arguments):
    """Run a function in two processes as `accelerate launch` starts them; return what they say."""
    asked = [*flags, "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    asked += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    asked += ["--main_process_port", "0", "program"]
    options = launch_command_parser().parse_args(asked)
    environment = prepare_multi_gpu_env(options) | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": options.master_port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    logs = [folder / f"log-{rank}" for rank in range(2)]
    processes = [
        forked.start(log, function, *arguments, environment=environment | ranks(rank))
        for rank, log in enumerate(logs)
    ]
    try:
        for process, log in zip(processes, logs, strict=True):
            process.join(200)
            assert process.exitcode == 0, log.exists() and log.read_text()[-4000:]
    finally:
        for process in processes:
            process.kill()
    return "".join(log.read_text() for log in logs)


def ranks(number):
    return {"RANK": str(number), "LOCAL_RANK": str(number)}


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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*launcher, "-m", "cllm_bench", *map(str, command), str(two)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    said = launched.stderr
    assert launched.returncode == 0, said
    assert [said.count(text) for text in ("tokenizer\n", "fit\n", "export\n", "Saved to")] == [
        1
    ] * 4
    assert files(two) == files(one)
    assert_alike(one / "training" / "target" / "fit", two / "training" / "target" / "fit")


def test_shards_train_what_one_process_trains(tmp_path):
    """Stopped and resumed, with adapters, in bf16, and when something goes wrong."""
    one, two = tmp_path / "one", tmp_path / "two"
    distributed_worker.main(one)
    launch(["--use_fsdp", "--fsdp_version", "2"], tmp_path, distributed_worker.main, two)
    for name in ("plain", "adapted", "chained"):
        assert_alike(one / name, two / name)
    assert [line["step"] for line in log(two / "plain")] == [0, 4, 8]
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
