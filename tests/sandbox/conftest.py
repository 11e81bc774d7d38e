"""A sandbox for each test module."""

from __future__ import annotations

import pytest
from sandbox_programs import QUICK

from cllm_bench.sandbox.isolation import strength
from cllm_bench.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def box():
    if not strength().full:
        pytest.skip(f"{strength()}")
    sandbox = Sandbox(QUICK)
    yield sandbox
    sandbox.close()
