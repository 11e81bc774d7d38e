"""The judge drill: whatever the endpoint does, no verdict is lost or invented, and no key leaks."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from families import cli, rows, write_checkpoint
from judge_server import CLOSE, HANG, Answer, Endpoint, failed, said
from synthetic import cell, manifest, row, task
from synthetic import failed as failed_row

from cllm_bench.contracts import JudgePrompt
from cllm_bench.errors import UserError
from cllm_bench.judge.endpoint import (
    DETAIL,
    EndpointJudge,
    Patience,
    checked_url,
    key_of_environment,
)
from cllm_bench.judge.protocol import NoOpinion, rating
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.schema import parse

KEY = "sk-very-secret-0123456789"
FAST = Patience(tries=3, first=0.01, longest=0.02, told=5, answer=0.5)
CONVERSATIONS = 3
PROMPTS = 2 * CONVERSATIONS  # that differ: the two methods reply the same
PROMPT = JudgePrompt("You judge.", "How good is it?")

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


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("CLLM_BENCH_JUDGE_KEY", raising=False)
    fast = partial(EndpointJudge, patience=FAST)
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


def no_key_in(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


def judgements(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "judgements.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {each["method"]: each for each in found}


def is_second(text: str) -> bool:
    return "Second turn:" in text


def good(text: str, _: int = 0) -> Answer:
    """Rate first turns 8 and second turns 5."""
    return said(f"Fine.\nRating: [[{5 if is_second(text) else 8}]]")


# What is asked, and what comes of it.


def test_without_a_judge_the_table_says_so(whole):
    assert {each["score"] for each in rows(whole)} == {None}
    for each in summary(whole).values():
        assert (each["score"], each["score_ci"]) == (None, None)
        assert each["judge"]["replies"] == PROMPTS
        assert (each["judge"]["name"], each["judge"]["judged"]) == (None, 0)
    text = (whole / "table.md").read_text()
    assert text.count("| not judged |") == 2
    assert "not judged: `cllm-bench judge RUN --judge MODEL` has the replies graded" in text
    assert "\n- the built-in conversations are generated" in text


def test_a_run_with_a_judge(monkeypatch, tmp_path, asked, capsys):
    out = tmp_path / "out"
    with Endpoint(good) as endpoint:
        options = ["--judge", "grader", "--judge-url", endpoint.url, "--output", out]
        assert cli(monkeypatch, *asked, *options) == 0
        assert cli(monkeypatch, *asked, *options) == 0  # nothing is missing
    shown = "".join(capsys.readouterr())
    assert KEY not in shown
    no_key_in(out)
    # Two methods that reply the same are judged once, and only the first repeat is.
    assert len(endpoint.requests) == len(set(endpoint.prompts)) == PROMPTS
    for request in endpoint.requests:
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == f"Bearer {KEY}"
        body = request["body"]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("grader", 0, 2048)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
    replies = {each["reply"].strip() for each in rows(out) if each["repeat"] == 0}
    assert all(any(reply in prompt for prompt in endpoint.prompts) for reply in replies)
    for each in summary(out).values():
        assert each["score"] == 6.5
        assert each["judge"] == {
            "name": "grader",
            "identity": endpoint.url,
            "replies": PROMPTS,
            "judged": PROMPTS,
            "requests": PROMPTS,
            "failures": 0,
            "prompt_tokens": 100 * PROMPTS,
            "completion_tokens": 10 * PROMPTS,
            "others": [],
        }
    text = (out / "table.md").read_text()
    assert "not judged" not in text
    assert f"judged by `grader@{endpoint.url}`" in text
    assert "6 requests, 600 tokens read, 60 tokens written for all methods together" in text
    assert "judge grader: 12 of 12 replies have a rating; this time 6 requests, 600" in shown
    assert "this time 0 requests; stored" in shown
    keys = {each["key"] for each in rows(out) if each["repeat"] == 0}
    assert sorted(key for each in judgements(out) for key in each["rows"]) == sorted(keys)


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


def test_the_table_chooses_among_judges(monkeypatch, judge, out, capsys):
    with Endpoint(good) as kind, Endpoint(lambda *_: said("[[2]]")) as strict:
        assert judge(kind, name="kind")[0] == 0
        assert judge(strict, name="strict")[0] == 0
        assert summary(out)["ar"]["score"] == 2.0
        assert judge(kind, name="kind")[0] == 0  # asks nothing, and shows its own verdicts
        assert summary(out)["ar"]["score"] == 6.5
        assert len(kind.requests) == PROMPTS
    for options, score in (([], "2.0"), (["--judge", "kind"], "6.5")):
        assert cli(monkeypatch, "table", out, *options) == 0
        assert len(re.findall(rf"\|\s+{score} \|", capsys.readouterr().out)) == 2
    assert cli(monkeypatch, "table", out, "--judge", "kinds") == 2
    assert "--judge kinds: no such judge's verdicts" in capsys.readouterr().err
    text = (out / "table.md").read_text()
    assert f"verdicts of `strict@{strict.url}` are stored too: `cllm-bench table RUN" in text


def test_judges_of_one_name_are_told_apart(monkeypatch, judge, out, capsys):
    """An endpoint elsewhere is another judge, and one that an earlier version stored is unknown."""
    file = out / "judgements.jsonl"
    with Endpoint(lambda *_: said("[[4]]")) as old, Endpoint(good) as kind:
        assert judge(old)[0] == 0
        lines = [{k: v for k, v in each.items() if k != "identity"} for each in judgements(out)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert judge(kind)[0] == 0
        assert len(kind.requests) == PROMPTS
        assert summary(out)["ar"]["score"] == 6.5
        with Endpoint(lambda *_: said("[[2]]")) as strict:
            assert judge(strict)[0] == 0
            assert len(strict.requests) == PROMPTS
            assert summary(out)["ar"]["score"] == 2.0
        assert judge(kind)[0] == 0
        assert len(kind.requests) == PROMPTS
    assert judgements(out)[:PROMPTS] == lines
    assert {each.get("identity") for each in judgements(out)} == {None, kind.url, strict.url}
    assert summary(out)["ar"]["judge"]["name"] == "grader"
    assert summary(out)["ar"]["judge"]["identity"] == kind.url
    assert summary(out)["ar"]["score"] == 6.5
    named = ["grader@unknown", f"grader@{kind.url}", f"grader@{strict.url}"]
    for name, score in zip(named, ("4.0", "6.5", "2.0"), strict=True):
        assert cli(monkeypatch, "table", out, "--judge", name) == 0
        shown = capsys.readouterr().out
        assert len(re.findall(rf"\|\s+{score} \|", shown)) == 2
        assert f"judged by `{name}`" in shown
    assert cli(monkeypatch, "table", out, "--judge", "grader") == 2
    (error,) = capsys.readouterr().err.splitlines()
    choice = " or ".join(f"'{name}'" for name in named)
    assert error == f"error: --judge grader: several judges have that name; give {choice}"


# Failures that pass.


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
        found = EndpointJudge("grader", endpoint.url, KEY, patience=FAST).ask(PROMPT)
        assert (found.text, found.requests, len(endpoint.requests)) == ("[[9]]", 3, 3)


@pytest.mark.parametrize("trouble", [failed(500, "broken"), CLOSE, HANG, Answer(body=b"{")])
def test_trouble_that_stays_is_no_opinion(trouble):
    with Endpoint(lambda *_: trouble) as endpoint:
        asked = EndpointJudge("grader", endpoint.url, KEY, patience=FAST)
        with pytest.raises(NoOpinion, match=r" \(3 tries\)$") as caught:
            asked.ask(PROMPT)
    assert caught.value.requests == 3


def test_an_answer_that_drips_ends_in_time():
    """Each part comes in time, and the whole never would."""
    with Endpoint(lambda *_: dataclasses.replace(said("[[9]]"), pause=0.1)) as endpoint:
        begun = time.monotonic()
        hasty = EndpointJudge("grader", endpoint.url, patience=Patience(tries=1, answer=0.5))
        with pytest.raises(NoOpinion, match=r"^TimeoutError: timed out$"):
            hasty.ask(PROMPT)
        assert time.monotonic() - begun < 3


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("cllm_bench.judge.endpoint.LARGEST", 50_000)
    wrong = r"^the answer is longer than 50,000 bytes \(3 tries\)$"
    with (
        Endpoint(lambda *_: said("x" * 200_000)) as endpoint,
        pytest.raises(NoOpinion, match=wrong),
    ):
        EndpointJudge("grader", endpoint.url, patience=FAST).ask(PROMPT)


def test_the_wait_doubles_varies_and_obeys_the_endpoint():
    patience = Patience()
    for attempt, most in ((1, 1), (2, 2), (5, 16), (7, 60), (30, 60)):
        waits = [patience.wait(attempt, 0.0) for _ in range(200)]
        assert most / 2 <= min(waits) < max(waits) <= most
        assert patience.wait(attempt, 77.0) == 77.0


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(form):
    date = datetime.now(UTC) + timedelta(seconds=2)  # its fractions of a second are lost
    header = "1" if form == "seconds" else format_datetime(date, usegmt=True)
    trouble = failed(429, "slow", Retry_After=header)
    with Endpoint(lambda _, times: said("[[9]]") if times else trouble) as endpoint:
        begun = time.monotonic()
        EndpointJudge("grader", endpoint.url, patience=FAST).ask(PROMPT)
        assert 0.9 < time.monotonic() - begun < 5


@pytest.mark.parametrize("header", ["soon", "-1", "inf", "nan", "", "Mon, 99 Foo 2020"])
def test_a_retry_after_that_is_none_is_passed_over(header):
    trouble = failed(429, "slow", Retry_After=header)
    with Endpoint(lambda _, times: said("[[9]]") if times else trouble) as endpoint:
        assert EndpointJudge("grader", endpoint.url, patience=FAST).ask(PROMPT).requests == 2


def test_a_long_retry_after_is_not_waited_for():
    with Endpoint(lambda *_: failed(429, "quota", Retry_After="7200")) as endpoint:
        with pytest.raises(NoOpinion, match="HTTP 429: quota; it asks to wait 7200 s"):
            EndpointJudge("grader", endpoint.url, patience=FAST).ask(PROMPT)
        assert len(endpoint.requests) == 1


# Verdicts that are none.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[7.]]", 7.0),
        ("[[10]] and [[3]]", 10.0),
        ("first [4], but Rating: [[6]]", 6.0),
        ("Rating: [6]", 6.0),
        ("[[1]]", 1.0),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[11]] or rather [[5]]", None),
        ("[[-3]]", None),
        ("[[7/10]]", None),
        ("[[rating]]", None),
        ("Rating: 7", None),
        ("[[ 7 ]]", None),
        ("[[1e1]]", None),
        ("[[" + "9" * 5000 + "]]", None),
        ("", None),
    ],
)
def test_ratings(text, expected):
    assert rating(text, 10.0) == expected


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
    wrong = "no rating from 1 to 10 in what the judge wrote"
    assert [each["error"] for each in failures] == [wrong, wrong, "no text (finish_reason stop)"]
    # Half a conversation is no score.
    assert summary(out)["ar"]["score"] is None
    text = (out / "table.md").read_text()
    assert "ar: 3 of 6 replies are judged" in text
    assert "3 of its answers held no rating" in text

    with Endpoint(good, endpoint.port) as endpoint:
        assert judge(endpoint)[0] == 0
        assert sorted(endpoint.prompts) == sorted(told)
    assert judgements(out)[:PROMPTS] == stored
    assert summary(out)["ar"]["score"] == 6.5


# The endpoint dies.


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
    assert "the judge was given up: RemoteDisconnected" in shown
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


def test_an_endpoint_that_is_not_there_is_told_at_once(judge, out):
    with Endpoint(good) as endpoint:
        url = endpoint.url
    code, shown = judge(url)
    assert code == 2
    assert shown.count("error:") == 1
    assert f"cannot reach the judge at {url} (ConnectionRefusedError" in shown
    assert not (out / "judgements.jsonl").exists()


def test_giving_up_wakes_who_waits(monkeypatch, judge):
    slow = partial(EndpointJudge, patience=Patience(tries=3, first=60))
    monkeypatch.setattr("cllm_bench.judge.choice.EndpointJudge", slow)

    def behave(text: str, _: int) -> Answer:
        return failed(503) if is_second(text) else failed(400, "too long")

    begun = time.monotonic()
    with Endpoint(behave) as endpoint:
        code, shown = judge(endpoint, "--parallel", PROMPTS)
    assert code == 1
    assert "the judge was given up: HTTP 400: too long" in shown
    assert time.monotonic() - begun < 15


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


def test_a_run_that_a_judge_fails_is_stored(monkeypatch, tmp_path, asked, capsys):
    out = tmp_path / "out"
    with Endpoint(lambda *_: failed(401, f"Incorrect API key provided: {KEY}")) as endpoint:
        options = ["--judge", "grader", "--judge-url", endpoint.url, "--output", out]
        assert cli(monkeypatch, *asked, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the run is stored in '{out}', but: the judge at {endpoint.url} refused" in error
    assert "HTTP 401: Incorrect API key provided: [key]; check --judge, --judge-url" in error
    assert len(endpoint.requests) <= 4
    no_key_in(out)
    assert "| not judged |" in (out / "table.md").read_text()


# The key.


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


@pytest.mark.parametrize("form", [failed, lambda status, text: Answer(status, text.encode())])
@pytest.mark.parametrize("status", [400, 401, 429])
def test_a_key_that_an_errors_end_would_part_is_hidden(form, status):
    text = f"{'x' * (DETAIL - 10)} {KEY} and more"
    with Endpoint(lambda *_: form(status, text)) as endpoint:
        asked = EndpointJudge("grader", endpoint.url, KEY, patience=FAST)
        with pytest.raises((NoOpinion, UserError)) as caught:
            asked.ask(PROMPT)
    assert f"HTTP {status}: {'x' * (DETAIL - 10)} [key] and" in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert " more" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_the_key_follows_no_redirection(status):
    with Endpoint(good) as thief:
        move = failed(status, "moved", Location=f"{thief.url}/chat/completions")
        with Endpoint(lambda *_: move) as endpoint:
            asked = EndpointJudge("grader", endpoint.url, KEY, patience=FAST)
            with pytest.raises(UserError, match=f"refused: HTTP {status}: moved"):
                asked.ask(PROMPT)
    assert not thief.requests
    assert KEY not in repr(asked)


def test_which_key_counts(monkeypatch):
    assert key_of_environment() == KEY
    monkeypatch.setenv("CLLM_BENCH_JUDGE_KEY", " other\n")
    assert key_of_environment() == "other"
    monkeypatch.setenv("CLLM_BENCH_JUDGE_KEY", "two\nlines")
    with pytest.raises(UserError, match=r"^the key in CLLM_BENCH_JUDGE_KEY holds characters"):
        key_of_environment()
    for name in ("CLLM_BENCH_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name)
    assert key_of_environment() is None
    with Endpoint(good) as endpoint:
        EndpointJudge("grader", endpoint.url).ask(PROMPT)
        assert "Authorization" not in endpoint.requests[0]["headers"]


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?api_key={KEY}",
        f"https://host/v1#{KEY}",
        f"{KEY}",
        f"ftp://host/{KEY}",
        f"https:///{KEY}",
        f"http://host:port/{KEY}",
        f"http://host/{KEY} x",
        f"http://host/{KEY}/ä",
        f"http://bücher/{KEY}",
        f"http://.x/{KEY}",
        f"http://a..b/{KEY}",
        f"http://{'x' * 64}/{KEY}",
    ],
)
def test_addresses_with_secrets_or_without_a_host_are_refused(monkeypatch, asked, capsys, url):
    options = ["--judge", "grader", "--judge-url", url]
    assert cli(monkeypatch, *asked, *options) == 2
    shown = "".join(capsys.readouterr())
    assert "--judge-url" in shown
    assert KEY not in shown
    assert len(shown.strip().splitlines()) == 1


def test_addresses():
    assert checked_url("http://host:8000/v1/") == "http://host:8000/v1"
    assert checked_url("https://host/v1/chat/completions") == "https://host/v1"
    for url in ("http://[::1]:8000/v1", "http://127.0.0.1:8000/v1", "http://my_host.:1/v1"):
        assert checked_url(url) == url
    # Some gateways have the key in the path: it is sent there, and never stored.
    assert EndpointJudge("grader", f"http://host/{KEY}/v1", KEY).identity == "http://host/[key]/v1"


# What a user may get wrong.


def test_bad_input(monkeypatch, tmp_path, asked, judge, out, capsys, command):
    counting = [*command, "--method", "ar", "--data", "built-in"]
    for arguments, message in (
        ([*asked, "--judge-url", "http://host/v1"], "--judge-url is given without --judge"),
        ([*asked, "--judge", "gpt-4"], "without --judge-url is a local checkpoint, and: no model"),
        ([*counting, "--judge", "mini"], "--judge: no task of this run is graded by a judge"),
        (["judge", tmp_path, "--judge", "mini"], "is no result folder"),
        (["judge", out, "--judge", "mini", "--parallel", 0], "--parallel must be at least 1"),
    ):
        assert cli(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    with ResultFolder.claim(out):
        assert "is in use by another run" in judge("http://host/v1")[1]


def test_a_run_without_anything_to_judge(monkeypatch, tmp_path, command, capsys):
    out = tmp_path / "out"
    asked = [*command, "--method", "ar", "--data", "built-in", "--repeats", 1, "--output", out]
    assert cli(monkeypatch, *asked) == 0
    assert cli(monkeypatch, "judge", out, "--judge", "mini") == 2
    assert "no task of this run is graded by a judge (it has: counting)" in capsys.readouterr().err


def test_the_questions_must_be_those_of_the_run(judge, out):
    file = out / "manifest.json"
    stored = json.loads(file.read_text())
    stored["configuration"]["tasks"]["bench:max_new_tokens=6"]["data"] = "0" * 64
    file.write_text(json.dumps(stored))
    with Endpoint(good) as endpoint:
        code, shown = judge(endpoint)
        assert code == 2
        assert "are not those that the run asked; give --data bench=DIR" in shown
        assert not endpoint.requests


# What is stored, and what it gives.


def judgement(*keys: str, score: float | None = 7.0, **changes: Any) -> Judgement:
    base = Judgement(
        judge="grader",
        identity="http://host/v1",
        task="spider",
        rows=keys,
        prompt="p",
        score=score,
        text="[[7]]",
        error=None,
        requests=1,
        prompt_tokens=None,
        completion_tokens=None,
        seconds=0.5,
        created="2026-01-01T00:00:00+00:00",
    )
    return dataclasses.replace(base, **changes)


def test_judgements_come_back_as_they_were():
    for each in (judgement("a", "b"), judgement("a", score=None, text=None, error="boom")):
        assert parse(Judgement, json.loads(json.dumps(each.to_json()))) == each
    earlier = judgement("a").to_json()
    del earlier["identity"]
    assert parse(Judgement, json.loads(json.dumps(earlier))) == judgement("a", identity=None)


@pytest.mark.parametrize(
    "change",
    [
        {"score": "7"},
        {"score": True},
        {"score": float("nan")},
        {"rows": "a"},
        {"rows": [1]},
        {"text": 3},
        {"requests": 1.5},
        {"judge": None},
        {"identity": 7},
    ],
)
def test_damaged_judgements_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"'{name}(\[0\])?' is "):
        parse(Judgement, json.loads(json.dumps(judgement("a").to_json() | change)))


def test_a_damaged_line_is_named(judge, out):
    (out / "judgements.jsonl").write_text('{"judge": "x"}\n')
    with Endpoint(good) as endpoint:
        code, shown = judge(endpoint)
    assert code == 2
    assert re.search(r"judgements\.jsonl' line 1 is damaged \(no 'task'\)", shown)


def judged_manifest() -> Manifest:
    return manifest(tasks=(task(best_score=10.0, samples=3, judged=True),))


def test_scores_are_means_of_turns_and_failures_count_as_nothing():
    turns = [
        row(method, f"{sample}/turn-{turn}", repeat=repeat, score=None)
        for method in ("ar", "jacobi")
        for sample in ("1", "2", "3")
        for turn in (1, 2)
        for repeat in (0, 1)
    ]
    # jacobi fails in the second turn of 3; nobody has judged the second turn of 2
    turns = [
        failed_row("jacobi", "3/turn-2", repeat=each.repeat)
        if (each.method, each.sample) == ("jacobi", "3/turn-2")
        else each
        for each in turns
    ]
    said_ = [
        judgement("ar/1/turn-1/0", "jacobi/1/turn-1/0", score=9.0),
        judgement("ar/1/turn-2/0", "jacobi/1/turn-2/0", score=4.0),
        judgement("ar/2/turn-1/0", "jacobi/2/turn-1/0", score=10.0),
        judgement("ar/2/turn-2/0", "jacobi/2/turn-2/0", score=None, error="boom"),
        judgement("ar/3/turn-1/0", score=2.0),
        judgement("ar/3/turn-2/0", score=1.0),
        judgement("ar/1/turn-1/0", score=1.0),  # a second opinion does not count
    ]
    ar, jacobi = summarise(judged_manifest(), turns, (), said_)
    assert ar.score == pytest.approx((6.5 + 1.5) / 2)
    assert jacobi.score == pytest.approx((6.5 + 0) / 2)
    assert (ar.judge.judged, ar.judge.replies) == (5, 6)
    assert (jacobi.judge.judged, jacobi.judge.replies) == (3, 4)
    assert jacobi.score_difference == pytest.approx((0 - 1.5) / 2)
    text = comparison_table([(judged_manifest(), [ar, jacobi])])
    assert "jacobi: 3 of 4 replies are judged" in text
    nobody = summarise(judged_manifest(), turns)
    assert {each.score for each in nobody} == {None}
    other = summarise(manifest(cell("ar"), samples=3), turns, (), said_)
    assert (other[0].judge, other[0].score) == (None, None)


# A judge whose weights are here.


def chat_checkpoint(folder: Path, template: str | None) -> Path:
    from cllm_bench.engine.checkpoint import Checkpoint
    from cllm_bench.engine.loading import load_tokenizer

    write_checkpoint(folder, seed=3)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(Checkpoint(str(folder)))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def test_a_local_judge_answers_as_transformers_does(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cllm_bench.core.registry import Registry
    from cllm_bench.engine.runtime import Runtime
    from cllm_bench.judge import local as judge_local

    folder = chat_checkpoint(tmp_path / "wise", TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_local, "MAX_TOKENS", 20)
        local = judge_local.LocalJudge(str(folder), Runtime("cpu", threads=1), Registry())
        found = local.ask(PROMPT)
    assert local.name == "wise (local)"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"[system]{PROMPT.system}[user]{PROMPT.user}[assistant]").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    reply = expected[0, len(ids) :]
    assert found.text == tokenizer.decode(reply, skip_special_tokens=True)
    assert (found.prompt_tokens, found.completion_tokens) == (len(ids), len(reply))


def test_local_judges_are_told_apart_by_their_weights(tmp_path):
    """Of two folders of one name, and of one folder before and after a training."""
    from cllm_bench.core.registry import Registry
    from cllm_bench.engine.loading import fingerprint
    from cllm_bench.engine.runtime import Runtime
    from cllm_bench.judge.local import LocalJudge
    from cllm_bench.results.judgements import JudgeId

    def local(folder: Path) -> LocalJudge:
        fingerprint.cache_clear()  # as in a new process
        return LocalJudge(str(folder), Runtime("cpu", threads=1), Registry())

    first, second = tmp_path / "one" / "target", tmp_path / "two" / "target"
    for seed, folder in enumerate((first, second)):
        write_checkpoint(folder, seed=seed)
    judges = [local(first), local(second)]
    assert {each.name for each in judges} == {"target (local)"}
    identities = [each.identity for each in judges]
    assert local(first).identity == identities[0] != identities[1]
    write_checkpoint(first, seed=2)
    assert local(first).identity not in identities
    named = str(JudgeId(judges[0].name, identities[0]))
    assert re.fullmatch(r"target \(local\)@sha256:[0-9a-f]{12}", named)
    assert identities[0].startswith(named.partition("@")[2])


def test_a_local_judge_judges_a_run(monkeypatch, tmp_path, out, plugin, capsys):
    folder = chat_checkpoint(tmp_path / "wise", TEMPLATE)
    monkeypatch.setattr("cllm_bench.judge.local.MAX_TOKENS", 8)
    asked = ["judge", out, "--judge", folder, "--plugin", plugin, "--threads", 1]
    assert cli(monkeypatch, *asked) == 1  # its weights are random: it gives no ratings
    shown = capsys.readouterr().err
    assert "judge wise (local): 0 of 12 replies have a rating; this time 6 requests" in shown
    stored = judgements(out)
    assert len(stored) == PROMPTS
    for each in stored:
        assert each["identity"].startswith("sha256:")
        assert each["score"] is None
        assert each["error"] == "no rating from 1 to 10 in what the judge wrote"
        assert each["text"] is not None
        assert each["completion_tokens"] <= 8 < each["prompt_tokens"]


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


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: name a chat model"),
        ("{{ raise_exception('System role not supported') }}", "takes no system prompt (System"),
    ],
)
def test_a_local_judge_that_cannot(monkeypatch, tmp_path, out, plugin, capsys, template, message):
    folder = chat_checkpoint(tmp_path / "dumb", template)
    asked = ["judge", out, "--judge", folder, "--plugin", plugin, "--threads", 1]
    assert cli(monkeypatch, *asked) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
