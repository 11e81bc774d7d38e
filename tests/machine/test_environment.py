"""The manifest's description of the machine."""

import subprocess

from cllm_bench.machine import environment as manifest_module


def test_the_manifest_describes_the_card_that_is_used(monkeypatch, cards):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="580.1\n")

    monkeypatch.setattr(manifest_module.subprocess, "run", run)
    found = manifest_module.machine("cuda:1")
    assert found.driver == "580.1"
    told = [command[:3] for command in asked if command[0] == "nvidia-smi"]
    assert told == [("nvidia-smi", "-i", "GPU-00bb")] * 2
