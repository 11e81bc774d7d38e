"""Endpoints that fail, retries, and the API key, which must never leak."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest
from judge_server import CLOSE, HANG, Answer, Endpoint, failed, said
from judged_runs import FAST, KEY, PROMPT, good

from cllm_bench.errors import UserError
from cllm_bench.judge.endpoint import (
    MAX_DETAIL,
    EndpointJudge,
    RetryPolicy,
    checked_url,
    key_of_environment,
)
from cllm_bench.judge.protocol import NoOpinion

pytest_plugins = ("judge_fixtures",)
pytestmark = pytest.mark.usefixtures("judge_environment")


@pytest.mark.parametrize(
    "trouble",
    [
        failed(429, "slow down", Retry_After="0"),
        failed(500),
        failed(503),
        failed(408),
        Answer(body=b"{not json"),
        Answer(body=b"[]"),
        Answer(body=b'{"choices": []}'),
        Answer(body=b'{"error": "overloaded"}'),
        Answer(body=b"\xff\xfe"),
        Answer(body=said("[[9]]").body, headers={"Content-Length": "100000"}),
        CLOSE,
        HANG,
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.status} {value.body[:12]!r}",
)
def test_passing_trouble_is_asked_again(trouble):
    with Endpoint(lambda _, times: trouble if times < 2 else said("[[9]]")) as endpoint:
        found = EndpointJudge("grader", endpoint.url, KEY, retries=FAST).ask(PROMPT)
        assert (found.text, found.requests, len(endpoint.requests)) == ("[[9]]", 3, 3)


@pytest.mark.parametrize("trouble", [failed(500, "broken"), CLOSE, HANG, Answer(body=b"{")])
def test_trouble_that_stays_is_no_opinion(trouble):
    with Endpoint(lambda *_: trouble) as endpoint:
        asked = EndpointJudge("grader", endpoint.url, KEY, retries=FAST)
        with pytest.raises(NoOpinion, match=r" \(3 tries\)$") as caught:
            asked.ask(PROMPT)
    assert caught.value.requests == 3


def test_an_answer_that_drips_ends_in_time():
    """Each part comes in time, and the whole never would."""
    with Endpoint(lambda *_: dataclasses.replace(said("[[9]]"), pause=0.1)) as endpoint:
        begun = time.monotonic()
        hasty = EndpointJudge("grader", endpoint.url, retries=RetryPolicy(tries=1, timeout=0.5))
        with pytest.raises(NoOpinion, match=r"^TimeoutError: timed out$"):
            hasty.ask(PROMPT)
        assert time.monotonic() - begun < 3


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("cllm_bench.judge.endpoint.MAX_ANSWER_BYTES", 50_000)
    wrong = r"^the answer is longer than 50,000 bytes \(3 tries\)$"
    with (
        Endpoint(lambda *_: said("x" * 200_000)) as endpoint,
        pytest.raises(NoOpinion, match=wrong),
    ):
        EndpointJudge("grader", endpoint.url, retries=FAST).ask(PROMPT)


def test_the_wait_doubles_varies_and_obeys_the_endpoint():
    policy = RetryPolicy()
    for attempt, most in ((1, 1), (2, 2), (5, 16), (7, 60), (30, 60)):
        waits = [policy.wait(attempt, 0.0) for _ in range(200)]
        assert most / 2 <= min(waits) < max(waits) <= most
        assert policy.wait(attempt, 77.0) == 77.0


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(form):
    date = datetime.now(UTC) + timedelta(seconds=2)  # its fractions of a second are lost
    header = "1" if form == "seconds" else format_datetime(date, usegmt=True)
    trouble = failed(429, "slow", Retry_After=header)
    with Endpoint(lambda _, times: said("[[9]]") if times else trouble) as endpoint:
        begun = time.monotonic()
        EndpointJudge("grader", endpoint.url, retries=FAST).ask(PROMPT)
        assert 0.9 < time.monotonic() - begun < 5


@pytest.mark.parametrize("header", ["soon", "-1", "inf", "nan", "", "Mon, 99 Foo 2020"])
def test_a_retry_after_that_is_none_is_passed_over(header):
    trouble = failed(429, "slow", Retry_After=header)
    with Endpoint(lambda _, times: said("[[9]]") if times else trouble) as endpoint:
        assert EndpointJudge("grader", endpoint.url, retries=FAST).ask(PROMPT).requests == 2


def test_a_long_retry_after_is_not_waited_for():
    with Endpoint(lambda *_: failed(429, "quota", Retry_After="7200")) as endpoint:
        with pytest.raises(NoOpinion, match="HTTP 429: quota; it asks to wait 7200 s"):
            EndpointJudge("grader", endpoint.url, retries=FAST).ask(PROMPT)
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("form", [failed, lambda status, text: Answer(status, text.encode())])
@pytest.mark.parametrize("status", [400, 401, 429])
def test_a_key_that_an_errors_end_would_part_is_hidden(form, status):
    text = f"{'x' * (MAX_DETAIL - 10)} {KEY} and more"
    with Endpoint(lambda *_: form(status, text)) as endpoint:
        asked = EndpointJudge("grader", endpoint.url, KEY, retries=FAST)
        with pytest.raises((NoOpinion, UserError)) as caught:
            asked.ask(PROMPT)
    assert f"HTTP {status}: {'x' * (MAX_DETAIL - 10)} [key] and" in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert " more" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_follows_no_redirection(status):
    with Endpoint(good) as thief:
        move = failed(status, "moved", Location=f"{thief.url}/chat/completions")
        with Endpoint(lambda *_: move) as endpoint:
            asked = EndpointJudge("grader", endpoint.url, KEY, retries=FAST)
            with pytest.raises(UserError, match=f"refused: HTTP {status}: moved"):
                asked.ask(PROMPT)
    assert not thief.requests
    assert KEY not in repr(asked)


def test_which_key_counts(monkeypatch):
    assert key_of_environment() == KEY
    monkeypatch.setenv("CLLM_BENCH_JUDGE_KEY", " other\n")
    assert key_of_environment() == "other"
    monkeypatch.setenv("CLLM_BENCH_JUDGE_KEY", "two\nlines")
    with pytest.raises(UserError, match=r"^the key in CLLM_BENCH_JUDGE_KEY contains a space"):
        key_of_environment()
    for name in ("CLLM_BENCH_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name)
    assert key_of_environment() is None
    with Endpoint(good) as endpoint:
        EndpointJudge("grader", endpoint.url).ask(PROMPT)
        assert "Authorization" not in endpoint.requests[0]["headers"]


def test_addresses():
    assert checked_url("http://host:8000/v1/") == "http://host:8000/v1"
    assert checked_url("https://host/v1/chat/completions") == "https://host/v1"
    for url in ("http://[::1]:8000/v1", "http://127.0.0.1:8000/v1", "http://my_host.:1/v1"):
        assert checked_url(url) == url
    # Some gateways have the key in the path: it is sent there, and never stored.
    assert EndpointJudge("grader", f"http://host/{KEY}/v1", KEY).identity == "http://host/[key]/v1"


def test_an_error_whose_body_breaks_off_is_asked_again():
    trouble = failed(503, "busy", Content_Length="100000")
    with Endpoint(lambda _, times: said("[[9]]") if times else trouble) as endpoint:
        assert EndpointJudge("grader", endpoint.url, KEY, retries=FAST).ask(PROMPT).requests == 2


def test_a_host_that_only_the_client_refuses_is_told_at_once():
    judge = EndpointJudge("grader", f"http://999.1.1.1/{KEY}/v1", KEY)
    with pytest.raises(
        UserError, match=r"^--judge-url http://999\.1\.1\.1/\[key\]/v1 is not a valid"
    ):
        judge.ask(PROMPT)


ODD_KEY = "sk-\"a\\b/c'd&e<f>+%g"


@pytest.mark.parametrize(
    "escaped",
    [
        ODD_KEY,
        json.dumps(ODD_KEY),
        json.dumps(json.dumps(ODD_KEY)),
        json.dumps(ODD_KEY).replace("/", "\\/"),
        "".join(f"\\u{ord(character):04X}" for character in ODD_KEY),
        html.escape(ODD_KEY),
        "".join(f"&#{ord(character)};" for character in ODD_KEY),
        quote(ODD_KEY, safe=""),
        quote(ODD_KEY, safe="").lower(),
        repr(ODD_KEY),
    ],
    ids=[
        "plain",
        "json",
        "json-in-json",
        "slash",
        "unicode",
        "html",
        "html-numbers",
        "url",
        "url-small",
        "python",
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_an_escaped_key_is_hidden(escaped, status):
    def echo(*_):
        text = f"<p>no access for <{escaped}>, sorry</p>"
        return said(text) if status == 200 else Answer(status, text.encode())

    with Endpoint(echo) as endpoint:
        asked = EndpointJudge("grader", endpoint.url, ODD_KEY, retries=FAST)
        if status == 200:
            shown = asked.ask(PROMPT).text
        else:
            with pytest.raises(NoOpinion) as caught:
                asked.ask(PROMPT)
            shown = str(caught.value)
        assert endpoint.requests[0]["headers"]["Authorization"] == f"Bearer {ODD_KEY}"
    assert re.search(r"<p>no access for <[\\\"']*\[key\][\\\"']*>, sorry</p>$", shown), shown


def test_a_judge_without_a_key_takes_none_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    with Endpoint(good) as endpoint:
        EndpointJudge("grader", endpoint.url).ask(PROMPT)
        assert KEY not in str(endpoint.requests[0]["headers"])
        assert "Authorization" not in endpoint.requests[0]["headers"]
