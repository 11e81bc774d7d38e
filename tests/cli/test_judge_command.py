"""The commands `judge`, `run --judge` and `table --judge`, and what a user may get wrong."""

from __future__ import annotations

import json
import re

import pytest
from families import cli, rows
from judge_server import Endpoint, failed, said
from judged_runs import KEY, PROMPTS, good, judgements, no_key_in, summary

from cllm_bench.results.folder import ResultFolder

pytest_plugins = ("judge_fixtures",)
pytestmark = pytest.mark.usefixtures("judge_environment")


def test_without_a_judge_the_table_says_so(whole):
    assert {each["score"] for each in rows(whole)} == {None}
    for each in summary(whole).values():
        assert (each["score"], each["score_ci"]) == (None, None)
        assert each["judge"]["replies"] == PROMPTS
        assert (each["judge"]["name"], each["judge"]["judged"]) == (None, 0)
    text = (whole / "table.md").read_text()
    assert text.count("| not judged |") == 2
    assert "not judged yet: run `cllm-bench judge RUN --judge MODEL`" in text
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
    assert f"verdicts of `strict@{strict.url}` are stored as well: `cllm-bench table RUN" in text


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


def test_an_endpoint_that_is_not_there_is_told_at_once(judge, out):
    with Endpoint(good) as endpoint:
        url = endpoint.url
    code, shown = judge(url)
    assert code == 2
    assert shown.count("error:") == 1
    assert f"cannot reach the judge at {url} (ConnectionRefusedError" in shown
    assert not (out / "judgements.jsonl").exists()


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


def test_bad_input(monkeypatch, tmp_path, asked, judge, out, capsys, command):
    counting = [*command, "--method", "ar", "--data", "built-in"]
    for arguments, message in (
        ([*asked, "--judge-url", "http://host/v1"], "--judge-url is given without --judge"),
        ([*asked, "--judge", "gpt-4"], "must be a local checkpoint, but: no model"),
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


def test_a_damaged_line_is_named(judge, out):
    (out / "judgements.jsonl").write_text('{"judge": "x"}\n')
    with Endpoint(good) as endpoint:
        code, shown = judge(endpoint)
    assert code == 2
    assert re.search(r"judgements\.jsonl' line 1 is damaged \(no 'task'\)", shown)
