"""Stored judgements, and the scores that they give."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from synthetic import cell, manifest, row, task
from synthetic import failed as failed_row

from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.schema import parse


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
