"""Fewer draws, so that a check takes seconds."""

import pytest


@pytest.fixture(autouse=True)
def always_fewer_draws(fewer_draws):
    pass
