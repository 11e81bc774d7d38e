"""Fewer draws and fewer models, so that a check takes seconds."""

import pytest

from cllm_bench.testing.sampling import DRAWS
from cllm_bench.testing.subject import Subject
from cllm_bench.testing.tiny_models import VARIED


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setitem(DRAWS, "exact", 100)
    monkeypatch.setitem(DRAWS, "distribution", 250)


@pytest.fixture
def few_models(monkeypatch):
    """Two models and three prompts."""
    for name in ("Qwen2", "GPT-2", "GPT-NeoX"):
        monkeypatch.delitem(VARIED, name)
    every = Subject.prompts
    monkeypatch.setattr(Subject, "prompts", lambda *arguments: every(*arguments)[1::2])
