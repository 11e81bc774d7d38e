"""Grading of a whole run: whatever the judge does, no verdict is lost or invented."""

from __future__ import annotations

import time
from functools import partial

import pytest
from judge_server import CLOSE, Answer, Endpoint, failed, said
from judged_runs import KEY, PROMPTS, good, is_second, judgements, summary

from cllm_bench.judge.endpoint import EndpointJudge, RetryPolicy

pytest_plugins = ("judge_fixtures",)
pytestmark = pytest.mark.usefixtures("judge_environment")


def test_an_earlier_run_keeps_its_rows_and_gets_scores(judge, out, whole):
    with Endpoint(good) as endpoint:
        assert judge(endpoint)[0] == 0
        assert len(endpoint.requests) == PROMPTS
        assert judge(endpoint, "--parallel", 1)[0] == 0
        assert len(endpoint.requests) == PROMPTS
    for name in ("samples.jsonl", "manifest.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert summary(out)["jacobi"]["score"] == summary(out)["ar"]["score"] == 6.5
    assert summary(out)["jacobi"]["score_difference"] == 0


def test_verdicts_without_a_rating_are_kept_and_asked_again(judge, out):
    bad = iter(["I cannot rate this.", "Rating: [[11]]", None])
    told: list[str] = []

    def behave(text: str, _: int) -> Answer:
        if is_second(text):
            return good(text)
        told.append(text)
        return said(next(bad))

    with Endpoint(behave) as endpoint:
        code, shown = judge(endpoint, "--parallel", 1)
        assert code == 1
        assert "6 of 12 replies have a rating" in shown
        assert "3 without a rating" in shown
        assert "judge the run again to ask for what is missing" in shown
    stored = judgements(out)
    assert len(stored) == PROMPTS
    failures = [each for each in stored if each["score"] is None]
    assert [each["text"] for each in failures] == ["I cannot rate this.", "Rating: [[11]]", None]
    wrong = "the judge's answer contains no rating from 1 to 10"
    assert [each["error"] for each in failures] == [wrong, wrong, "no text (finish_reason stop)"]
    # Half a conversation is no score.
    assert summary(out)["ar"]["score"] is None
    text = (out / "table.md").read_text()
    assert "ar: 3 of 6 replies are judged" in text
    assert "3 of its answers contained no rating" in text

    with Endpoint(good, endpoint.port) as endpoint:
        assert judge(endpoint)[0] == 0
        assert sorted(endpoint.prompts) == sorted(told)
    assert judgements(out)[:PROMPTS] == stored
    assert summary(out)["ar"]["score"] == 6.5


@pytest.mark.parametrize("parallel", [1, 3])
def test_an_endpoint_that_dies_half_way(judge, out, parallel):
    answered: list[str] = []

    def dies(text: str, _: int) -> Answer | str:
        if len(answered) == 2:
            return CLOSE
        answered.append(text)
        return good(text)

    with Endpoint(dies) as endpoint:
        code, shown = judge(endpoint, "--parallel", parallel)
    assert code == 1
    assert "the judge was given up: RemoteProtocolError: Server disconnected" in shown
    stored = judgements(out)
    assert [each["score"] is None for each in stored].count(False) == 2
    assert sum(each["score"] is None for each in stored) <= 3 + parallel - 1
    assert all(each["text"] is None and each["error"] for each in stored if each["score"] is None)
    assert {score for each in stored if (score := each["score"])} <= {8.0, 5.0}

    with Endpoint(good, endpoint.port) as endpoint:
        assert judge(endpoint)[0] == 0
        assert len(endpoint.requests) == PROMPTS - 2
        assert not set(endpoint.prompts) & set(answered)
    assert judgements(out)[: len(stored)] == stored
    assert summary(out)["jacobi"]["score"] == 6.5
    with Endpoint(good, endpoint.port) as endpoint:
        assert judge(endpoint)[0] == 0
        assert not endpoint.requests


def test_giving_up_wakes_who_waits(monkeypatch, judge):
    slow = partial(EndpointJudge, retries=RetryPolicy(tries=3, first_wait=60))
    monkeypatch.setattr("cllm_bench.judge.choice.EndpointJudge", slow)

    def behave(text: str, _: int) -> Answer:
        return failed(503) if is_second(text) else failed(400, "too long")

    begun = time.monotonic()
    with Endpoint(behave) as endpoint:
        code, shown = judge(endpoint, "--parallel", PROMPTS)
    assert code == 1
    assert "the judge was given up: HTTP 400: too long" in shown
    assert time.monotonic() - begun < 15


def test_prompts_that_are_too_long_are_failures_of_their_own(monkeypatch, judge, out):
    def behave(text: str, _: int) -> Answer:
        return good(text) if text in first else failed(400, "maximum context length exceeded")

    with Endpoint(good) as endpoint:
        assert judge(endpoint, "--parallel", 1)[0] == 0
        first = endpoint.prompts[:1]
    (out / "judgements.jsonl").unlink()
    with Endpoint(behave) as endpoint:
        code, shown = judge(endpoint, "--parallel", 1)
        assert code == 1
        assert "given up" not in shown
        assert len(endpoint.requests) == PROMPTS
    (out / "judgements.jsonl").unlink()
    first = []
    with Endpoint(behave) as endpoint:  # where nothing is ever answered, it is more than that
        code, shown = judge(endpoint, "--parallel", 1)
        assert code == 1
        assert "given up: HTTP 400: maximum context length exceeded" in shown
        assert len(endpoint.requests) == 3


def test_a_line_that_was_cut_is_moved_aside(judge, out):
    with Endpoint(good) as endpoint:
        assert judge(endpoint)[0] == 0
    file = out / "judgements.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    with Endpoint(good, endpoint.port) as endpoint:
        code, shown = judge(endpoint)
        assert code == 0
        assert "was cut" in shown
        assert len(endpoint.requests) == 1
    assert (out / "judgements.jsonl.damaged").read_bytes() == lines[-1][:40]
    assert len(judgements(out)) == PROMPTS


def test_a_key_that_the_endpoint_repeats_is_hidden(judge, out):
    def echo(text: str, _: int) -> Answer:
        if is_second(text):
            return failed(400, f"bad request with Bearer {KEY}")
        return said(f"You sent {KEY}. [[8]]")

    with Endpoint(echo) as endpoint:
        judge(endpoint, "--parallel", 1)
    texts = [each["text"] or each["error"] for each in judgements(out)]
    assert "You sent [key]. [[8]]" in texts
    assert "HTTP 400: bad request with Bearer [key]" in texts


def test_an_interrupted_judging_keeps_what_came_and_goes_on(monkeypatch, judge, out):
    def interrupt(self, what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with Endpoint(good) as endpoint:
        with monkeypatch.context() as patch:
            patch.setattr("cllm_bench.cli.progress.LiveProgress.__call__", interrupt)
            code, shown = judge(endpoint, "--parallel", 2)
        assert code == 130
        assert "repeat the command to go on" in shown
        stored = judgements(out)
        assert 2 <= len(stored) < PROMPTS
        assert summary(out)["ar"]["judge"]["requests"] == len(stored)
        assert judge(endpoint)[0] == 0
        assert len(endpoint.requests) == PROMPTS
    assert judgements(out)[: len(stored)] == stored
