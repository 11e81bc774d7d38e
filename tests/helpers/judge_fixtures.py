"""Fixtures of judged runs, for the test modules that name this one in `pytest_plugins`."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
from families import cli
from judge_server import Endpoint
from judged_runs import CONVERSATIONS, FAST, KEY, no_key_in

from cllm_bench.judge.endpoint import EndpointJudge

PLUGIN = '''
from dataclasses import dataclass

from cllm_bench_tasks.mt_bench.task import MtBench


@dataclass(frozen=True)
class Bench(MtBench):
    """MT-bench under another name."""


@dataclass(frozen=True)
class Other(MtBench):
    """Once more."""
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "bench.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def asked(tiny, plugin):
    return [
        *("run", "--model", tiny[0], "--plugin", plugin, "--threads", 1, "--repeats", 2),
        *("--task", "bench:max_new_tokens=6", "--data", "built-in", "--limit", CONVERSATIONS),
        *("--method", "jacobi", "--no-noise-floor"),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, asked):
    """A run that nobody has judged."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, *asked, "--output", out) == 0
    return out


@pytest.fixture
def out(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "out")


@pytest.fixture
def judge_environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("CLLM_BENCH_JUDGE_KEY", raising=False)
    fast = partial(EndpointJudge, retries=FAST)
    monkeypatch.setattr("cllm_bench.judge.choice.EndpointJudge", fast)


@pytest.fixture
def judge(monkeypatch, plugin, out, capsys):
    """Judge the run; return the exit code and what was printed, which never holds the key."""

    def call(endpoint: Endpoint | str, *options: object, name: str = "grader") -> tuple[int, str]:
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        arguments = ["judge", out, "--judge", name, "--judge-url", url, "--plugin", plugin]
        code = cli(monkeypatch, *arguments, *options)
        shown = "".join(capsys.readouterr())
        assert KEY not in shown
        no_key_in(out)
        return code, shown

    return call
