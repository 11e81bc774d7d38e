"""Which judge the options name, and that nobody else pays for it."""

import subprocess
import sys

import pytest

from cllm_bench.core.registry import Registry
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench.judge.choice import find_judge
from cllm_bench.judge.endpoint import EndpointJudge

LAZY = """
import sys
from cllm_bench.cli import app, judge
from cllm_bench.judge import choice, endpoint, grading, local
choice.find_judge("grader", "http://host/v1", None, None)
assert not {"openai", "httpx", "httpx2"} & set(sys.modules)
"""


def test_a_url_names_an_endpoint(monkeypatch):
    monkeypatch.setenv("CLLM_BENCH_JUDGE_KEY", "key")
    judge = find_judge("grader", "http://host/v1/", Registry(), Runtime("cpu"), 7)
    assert judge == EndpointJudge("grader", "http://host/v1", "key", 7, _stopping=judge._stopping)


def test_without_a_url_the_model_is_local():
    assert find_judge("mini", None, Registry(), Runtime("cpu")).name == "mini (local)"
    with pytest.raises(UserError, match="--judge nowhere without --judge-url must be a local"):
        find_judge("nowhere", None, Registry(), Runtime("cpu"))


def test_the_client_is_imported_with_the_first_request():
    subprocess.run([sys.executable, "-c", LAZY], check=True)
