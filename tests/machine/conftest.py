"""Machines that are not there."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def cards(monkeypatch):
    """Two cards that the driver counts otherwise than CUDA does."""
    found = {"cuda": "11aa", "cuda:0": "11aa", "cuda:1": "00bb"}

    def properties(device):
        return SimpleNamespace(name="H100", total_memory=80, uuid=found[device])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
