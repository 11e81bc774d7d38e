"""Two runs beside each other: the right word for each planted difference."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.errors import UserError
from cllm_bench.machine.environment import Machine
from cllm_bench.report.comparison.conditions import Condition
from cllm_bench.report.comparison.figures import Comparison, compare_runs, decide
from cllm_bench.report.comparison.limits import check_limits, parse_limit
from cllm_bench.report.comparison.outlines import Outline, OutlinedRun
from cllm_bench.report.comparison.text import check_line, comparison_text, inert
from cllm_bench.report.statistics import Interval
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.perplexity import Perplexity, Stretch
from cllm_bench.results.rows import Row

CELLS = (cell("ar"), cell("ar A/A", again=True), cell("jacobi"))
PACES = {"ar": 1.0, "ar A/A": 1.01, "jacobi": 0.5}  # equal methods come out 1% apart
COUNT = 40


def rows_of(slower: float = 1.0, paces: dict[str, float] = PACES, **changes: Any) -> list[Row]:
    """Return rows whose paces scatter a little, in the same way for all methods."""
    return [
        row(
            *(method, f"q{i}", pace * slower * (1 + 0.001 * (i % 7))),
            **{"prompt_hash": f"prompt {i}"} | changes,
        )
        for method, pace in paces.items()
        for i in range(COUNT)
    ]


def outlined(rows: Sequence[Row], used: Manifest | None = None, **others: Any) -> OutlinedRun:
    found: dict[tuple[str, str], dict[str, list[Outline]]] = {}
    for each in rows:
        samples = found.setdefault((each.task, each.method), {})
        samples.setdefault(each.sample, []).append(Outline.of(each))
    used = used or manifest(*CELLS, samples=COUNT)
    return OutlinedRun(Path("results/a"), used, found, **others)


def words(found: Comparison) -> dict[str, str]:
    return {pair.method: found.headline(pair).word for pair in found.pairs}


def outcomes(found: Comparison, *texts: str) -> dict[str, str]:
    checks = check_limits(found, [parse_limit(text) for text in texts])
    return {each.limit: each.outcome for each in checks}


def test_a_run_is_the_same_as_itself() -> None:
    run = outlined(rows_of())
    found = compare_runs(run, run)
    assert words(found) == {"ar": "same", "jacobi": "same"}
    assert found.conditions == found.machines == ()
    assert found.only_a == found.only_b == ()
    ar, jacobi = found.pairs
    assert ar.speed.value == jacobi.speed.value == jacobi.speedup.value == 1.0
    assert ar.speed.margin == pytest.approx(0.0099, abs=1e-4)
    assert jacobi.speedup.margin == pytest.approx(1.0099**2 - 1, abs=1e-4)
    assert jacobi.identical_replies == jacobi.samples == COUNT
    assert jacobi.score is not None
    assert jacobi.score.identical
    assert jacobi.speedup_a == pytest.approx(2.0)
    assert jacobi.tokens_per_pass_b == 1.0
    limits = ("slower:3%", "faster:3%", "score:1")
    assert outcomes(found, *limits) == dict.fromkeys(limits, "does not hold")
    text = comparison_text(found)
    assert "same within 1.0%" in text
    assert "nothing that is stored" in text


def test_a_copy_that_is_a_tenth_slower() -> None:
    a, b = outlined(rows_of()), outlined(rows_of(slower=1 / 0.9))
    found = compare_runs(a, b)
    assert words(found) == {"ar": "slower", "jacobi": "slower"}
    jacobi = found.pairs[1]
    assert jacobi.speed.value == pytest.approx(0.9)
    assert jacobi.speedup.word == "same"
    assert any("the baseline itself is slower" in note for note in found.notes)
    told = {"slower:3%": "holds", "slower:15%": "does not hold", "faster:3%": "does not hold"}
    assert outcomes(found, *told) == told
    assert words(compare_runs(b, a)) == {"ar": "faster", "jacobi": "faster"}
    assert outcomes(compare_runs(b, a), "faster:3%", "slower:0%") == {
        "faster:3%": "holds",
        "slower:0%": "does not hold",
    }


def test_one_method_that_is_slower_is_named() -> None:
    a, b = outlined(rows_of()), outlined(rows_of(paces=PACES | {"jacobi": 0.55}))
    found = compare_runs(a, b)
    assert words(found) == {"ar": "same", "jacobi": "slower"}
    (check,) = check_limits(found, [parse_limit("slower:3%")])
    assert check_line(check) == (
        "--fail-if slower:3%: holds for spider jacobi; does not hold for 1 more"
    )


def test_times_of_another_machine_are_refused_and_speedups_compared() -> None:
    other = replace(
        manifest(*CELLS, samples=COUNT),
        machine=Machine(platform="Linux", cpu="Xeon", cores=2, device="cpu"),
    )
    a, b = outlined(rows_of()), outlined(rows_of(slower=3.0, paces=PACES | {"jacobi": 0.4}), other)
    found = compare_runs(a, b)
    assert found.machines == (Condition("cpu", "EPYC", "Xeon"),)
    ar, jacobi = found.pairs
    for refused in (ar.speed, jacobi.speed, jacobi.end_to_end):
        assert (refused.value, refused.word) == (None, "cannot tell")
        assert "another machine (cpu)" in str(refused.reason)
    assert jacobi.speedup.value == pytest.approx(1.25)
    assert words(found) == {"ar": "cannot tell", "jacobi": "faster"}
    assert outcomes(found, "slower:3%", "faster:3%") == {
        "slower:3%": "does not hold",
        "faster:3%": "holds",
    }
    text = comparison_text(found)
    assert text.index("the machine (cpu)") < text.index("| method")
    assert "cpu: EPYC → Xeon" in text
    assert "speedup over the own baseline of B over A" in text


def test_other_prompts_are_not_compared() -> None:
    a, b = outlined(rows_of()), outlined(rows_of(prompt_hash="another"))
    found = compare_runs(a, b)
    assert words(found) == {"ar": "cannot tell", "jacobi": "cannot tell"}
    assert found.pairs[0].speed.reason == "no common questions: the prompts differ"
    assert found.pairs[0].other_prompts == COUNT
    (check,) = check_limits(found, [parse_limit("slower:3%")])
    assert (check.outcome, check.measured) == ("cannot tell", False)


def test_only_questions_with_one_prompt_count() -> None:
    changed = [
        replace(each, prompt_hash="another", decode_seconds=99.0, score=0.0)
        if each.sample in ("q1", "q2")
        else each
        for each in rows_of()
    ]
    found = compare_runs(outlined(rows_of()), outlined(changed))
    assert words(found)["jacobi"] == "same"
    pair = found.pairs[1]
    assert (pair.samples, pair.other_prompts) == (COUNT - 2, 2)
    assert pair.score is not None
    assert (pair.score.difference, pair.score.questions) == (0.0, COUNT - 2)


def test_rows_without_hashes_go_by_source_template_and_length() -> None:
    stored = {"tasks": {"spider": {"data": "abc", "template": "spider-1"}}}
    used = manifest(*CELLS, samples=COUNT, configuration=stored)
    old = rows_of(prompt_hash=None)
    found = compare_runs(outlined(old, used), outlined(rows_of(), used))
    assert words(found)["jacobi"] == "same"
    assert "no hashes of prompts" in found.notes[0]
    longer = [replace(each, prompt_tokens=21) for each in old]
    assert compare_runs(outlined(old, used), outlined(longer, used)).pairs[0].samples == 0
    turns = [replace(each, sample=f"{each.sample}/turn-2") for each in old]
    assert compare_runs(outlined(turns, used), outlined(turns, used)).pairs[0].samples == 0
    unknown = compare_runs(outlined(old), outlined(old))
    assert unknown.pairs[0].samples == 0  # nobody knows what was asked


@pytest.mark.parametrize(
    ("interval", "margin", "word"),
    [
        (Interval(0.995, 1.005), 0.01, "same"),
        (Interval(1.002, 1.005), 0.01, "same"),
        (Interval(1.02, 1.05), 0.01, "faster"),
        (Interval(0.95, 0.98), 0.01, "slower"),
        (Interval(1.005, 1.05), 0.01, "cannot tell"),
        (Interval(0.9, 1.1), 0.01, "cannot tell"),
        (Interval(1.005, 1.05), None, "faster"),
        (Interval(0.999, 1.001), None, "cannot tell"),
        (None, 0.01, "cannot tell"),
    ],
)
def test_a_word_needs_the_whole_interval(
    interval: Interval | None, margin: float | None, word: str
) -> None:
    found, reason = decide(interval, margin)
    assert found == word
    assert (reason is None) == (word != "cannot tell")


def test_without_a_noise_floor_nothing_is_called_the_same() -> None:
    bare = manifest(cell("ar"), cell("jacobi"), samples=COUNT)
    paces = {"ar": 1.0, "jacobi": 0.5}
    run = outlined(rows_of(paces=paces), bare)
    found = compare_runs(run, run)
    assert words(found) == {"ar": "cannot tell", "jacobi": "cannot tell"}
    assert "no noise floor was measured in A and B" in found.notes[0]
    assert outcomes(found, "slower:3%") == {"slower:3%": "does not hold"}


def test_an_interval_that_holds_the_limit_is_told() -> None:
    noisy = [
        replace(each, decode_seconds=(each.decode_seconds or 0) * (0.8 if i % 2 else 1.25))
        for i, each in enumerate(rows_of())
    ]
    found = compare_runs(outlined(rows_of()), outlined(noisy))
    (check,) = check_limits(found, [parse_limit("slower:3%")])
    assert (check.outcome, check.measured) == ("cannot tell", True)
    assert "cannot tell for spider ar (" in check_line(check)
    assert "holds the limit" in check_line(check)


def test_points_that_are_lost() -> None:
    worse = [
        replace(each, score=0.0, token_ids=(9, 9)) if each.sample < "q3" else each
        for each in rows_of()
    ]  # q0 to q2 and q10 to q29 of 40
    found = compare_runs(outlined(rows_of()), outlined(worse))
    score = found.pairs[1].score
    assert score is not None
    assert score.difference == pytest.approx(-23 / 40)
    assert score.interval is not None
    assert outcomes(found, "score:1", "score:90") == {
        "score:1": "holds",
        "score:90": "does not hold",
    }
    assert found.pairs[1].identical_replies == 17
    better = compare_runs(outlined(worse), outlined(rows_of()))
    assert outcomes(better, "score:1") == {"score:1": "does not hold"}
    slightly = [replace(each, reply="y", token_ids=(1, 2, 3)) for each in rows_of()]
    unsure = compare_runs(outlined(rows_of()), outlined(slightly))
    assert outcomes(unsure, "score:1") == {"score:1": "cannot tell"}  # equal, of few questions


def test_perplexities_are_compared_over_one_text() -> None:
    def perplexity(nll: float, tokens: int = 100) -> Perplexity:
        parts = tuple(Stretch(tokens, nll + i / 10) for i in range(20))
        total = sum(part.nll for part in parts)
        plain = {"window": 128, "stride": 128, "remainder": "drop", "windows": 20, "words": 900}
        return Perplexity(
            *("key", "text", "target", 0),
            **plain,  # type: ignore[arg-type]
            text_tokens=2000,
            tokens=20 * tokens,
            nll=total,
            parts=parts,
            seconds=1.0,
        )

    stored = {"tasks": {"text": {"data": "abc", "template": "spider-1", "text": "def"}}}
    used = manifest(
        *CELLS, tasks=(task("text", best_score=0.0, samples=COUNT),), configuration=stored
    )
    rows = [replace(each, task="text", score=None) for each in rows_of()]
    a = outlined(rows, used, perplexities=[perplexity(100.0)])
    b = outlined(rows, used, perplexities=[perplexity(120.0)])
    score = compare_runs(a, b).pairs[0].score
    assert score is not None
    assert score.difference is not None
    assert score.difference > 0
    assert score.interval is not None
    assert score.interval.low > 0
    assert outcomes(compare_runs(a, b), "score:0.1") == {"score:0.1": "holds"}
    assert outcomes(compare_runs(b, a), "score:0.1") == {"score:0.1": "does not hold"}
    other = replace(
        used, configuration={"tasks": {"text": stored["tasks"]["text"] | {"text": "x"}}}
    )
    refused = compare_runs(a, replace(b, manifest=other)).pairs[0].score
    assert refused is not None
    assert (refused.difference, refused.reason) == (None, "perplexities of different texts")


def test_ratings_of_different_judges_are_not_compared() -> None:
    used = manifest(*CELLS, tasks=(task(judged=True, best_score=10.0, samples=COUNT),))
    rows = [replace(each, score=None) for each in rows_of()]

    def judged(name: str, score: float) -> OutlinedRun:
        found = [
            Judgement(
                judge=name,
                task="spider",
                rows=(each.key,),
                prompt=each.key,
                score=score,
                text=None,
                error=None,
                requests=1,
                prompt_tokens=None,
                completion_tokens=None,
                seconds=0.1,
                created="2026-07-01T10:00:00+00:00",
            )
            for each in rows
        ]
        return outlined(rows, used, judgements=found)

    score = compare_runs(judged("one", 7.0), judged("one", 5.0)).pairs[0].score
    assert score is not None
    assert (score.a, score.b, score.difference) == (7.0, 5.0, -2.0)
    other = compare_runs(judged("one", 7.0), judged("two", 5.0)).pairs[0].score
    assert other is not None
    assert (other.difference, other.reason) == (None, "judged by one@unknown and by two@unknown")


def test_failures_score_nothing_and_are_told() -> None:
    rows = [
        failed("jacobi", each.sample, prompt_hash=each.prompt_hash)
        if each.method == "jacobi" and each.sample == "q3"
        else each
        for each in rows_of()
    ]
    found = compare_runs(outlined(rows_of()), outlined(rows))
    pair = found.pairs[1]
    assert (pair.failed_a, pair.failed_b, pair.speed.samples) == (0, 1, COUNT - 1)
    assert pair.score is not None
    assert pair.score.difference == pytest.approx(-1 / COUNT)
    assert "spider jacobi: 0 replies failed in A and 1 in B" in found.notes


def test_what_differs_comes_first() -> None:
    hashes = [f"sha256:{digit * 64}" for digit in "ab"]
    used = [
        manifest(
            *(cell("ar"), cell("ar A/A", again=True), cell("jacobi", settings={"block_size": n})),
            samples=COUNT,
            configuration={"checkpoints": {"target": each}},
            versions={"torch": torch},
        )
        for n, each, torch in zip((16, 32), hashes, ("2.13.0", "2.12.0"), strict=True)
    ]
    more = replace(used[1], cells=(*used[1].cells, cell("cllm")))
    found = compare_runs(outlined(rows_of(), used[0]), outlined(rows_of(), more))
    assert found.conditions == (
        Condition("checkpoint target", *hashes),
        Condition("torch", "2.13.0", "2.12.0"),
        Condition("jacobi: block_size", 16, 32),
    )
    assert found.only_b == ("spider cllm",)
    lines = comparison_text(found).splitlines()
    assert "- checkpoint target: sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb" in lines
    assert lines.index("- only in B: spider cllm") < lines.index(
        "## spider: decoding speed of B over A"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slwer:3%", "no condition named 'slwer'; did you mean 'slower'?"),
        ("slower:3", "'3' is not a percentage, as in slower:3%"),
        ("slower:100%", "'100%' is not a percentage"),
        ("slower:nan%", "'nan%' is not a percentage"),
        ("score:1%", "'1%' is not a number of points, as in score:1"),
        ("score:-1", "'-1' is not a number of points"),
        ("faster", "'' is not a percentage, as in faster:3%"),
    ],
)
def test_a_limit_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_limit(text)


def test_hostile_names_are_inert_and_the_text_fits() -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>|![x](http://x)\u202e" + "y" * 500
    used = manifest(
        *(cell("ar"), cell("ar A/A", again=True), cell(hostile, settings={hostile: hostile})),
        samples=COUNT,
        model=hostile,
    )
    paces = {"ar": 1.0, "ar A/A": 1.01, hostile: 0.5}
    a = outlined(rows_of(paces=paces), used)
    b = outlined(rows_of(paces=paces), replace(used, model=f"other {hostile}"))
    found = compare_runs(replace(a, folder=Path(hostile)), b)
    found = replace(found, checks=check_limits(found, [parse_limit("slower:3%")]))
    for width in (80, 120):
        text = comparison_text(found, width)
        assert max(map(len, text.splitlines())) <= width
        assert all(character.isprintable() or character == "\n" for character in text)
        assert "<script" not in text.replace("\\<", "")
        assert "![" not in text.replace("\\[", "")
    document = json.dumps(found.to_json())
    assert all(character.isprintable() for character in document)
    assert json.loads(document)["pairs"][1]["method"] == hostile


def test_inert_text() -> None:
    assert inert("plain é ü 漢字: a_b/c") == "plain é ü 漢字: a_b/c"
    assert inert("a\nb\x1b[31m\ud800") == "a b\\x1b\\[31m\\ud800"
    assert inert("x" * 300, 10) == "x" * 9 + "…"
    assert inert("") == "–"
