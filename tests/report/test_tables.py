from __future__ import annotations

import re
import subprocess
import sys

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.contracts import Sampling
from cllm_bench.report import numbers as formats
from cllm_bench.report.columns import Run
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import Row
from cllm_bench.results.manifest import Manifest

PACES = {"ar": 1.0, "jacobi": 0.5}


def rows_of(count: int = 6, paces: dict[str, float] = PACES) -> list[Row]:
    return [row(m, f"q{i}", pace) for m, pace in paces.items() for i in range(count)]


def run(rows: list[Row] | None = None, used: Manifest | None = None) -> Run:
    used = used or manifest()
    return used, summarise(used, rows_of() if rows is None else rows)


def table(text: str, number: int = 0) -> list[dict[str, str]]:
    """Read one Markdown table back: a mapping of titles to texts for each line."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    lines = [
        [part.strip() for part in line[1:-1].split(" | ")] for line in blocks[number].split("\n")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:-1]]


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (2.412, (2.331, 2.488), "2.41× [2.33, 2.49]"),
        (2.412, (1.2, 4.4), "2.4× [1.2, 4.4]"),
        (24.12, (10.3, 40.2), "24× [10, 40]"),
        (1.0004, (0.9989, 1.0012), "1.000× [0.999, 1.001]"),
        (1.0004, (0.981, 1.012), "1.00× [0.98, 1.01]"),
        (2.412, None, "2.4×"),
        (2.0, (2.0, 2.0), "2.00× [2.00, 2.00]"),
        (None, None, "–"),
    ],
)
def test_ratios_have_no_more_digits_than_the_interval_supports(
    value: float | None, bounds: tuple[float, float] | None, expected: str
) -> None:
    assert formats.ratio(value, bounds) == expected


def test_scores_and_differences() -> None:
    assert formats.score(0.625, (0.562, 0.684), 1.0) == "62% [56, 68]"
    assert formats.score(0.6254, (0.612, 0.638), 1.0) == "62.5% [61.2, 63.8]"
    assert formats.score(0.5, None, 1.0) == "50%"
    assert formats.score(5.26, (4.1, 6.4), 10.0) == "5.3 [4.1, 6.4]"
    assert formats.score(None, None, 1.0) == "–"
    assert formats.difference(-0.031, (-0.05, -0.012), 1.0) == "−3.1 [−5.0, −1.2] pp"
    assert formats.difference(0.0, (-0.011, 0.011), 1.0) == "0.0 [−1.1, +1.1] pp"
    assert formats.difference(0.5, (0.2, 0.8), 10.0) == "+0.50 [+0.20, +0.80]"


def test_shares_never_round_to_all_or_none() -> None:
    shares = [formats.share(value) for value in (0.0, 0.0004, 0.5, 0.996, 0.9996, 1.0, None)]
    assert shares == ["0%", "<0.1%", "50.0%", "99.6%", ">99.9%", "100%", "–"]


def test_other_numbers() -> None:
    assert [formats.significant(v) for v in (1234.5, 97.46, 4.0, 0.01234, 0.0)] == [
        "1,230",
        "97.5",
        "4.00",
        "0.0123",
        "0",
    ]
    assert formats.memory(3 * 2**30) == "3.00 GiB"
    assert formats.memory(5 * 2**20) == "5.00 MiB"
    assert [formats.count(v) for v in (6.738e9, 1_064_000, 900)] == ["6.74B", "1.06M", "900"]
    assert [formats.figure(v) for v in (0.4, 2.3, 0.0, 0.004, 1234.0)] == [
        "0.40",
        "2.30",
        "0.00",
        "0.00400",
        "1,230",
    ]
    assert formats.fixed(-0.001, 2) == "0.00"


def test_the_comparison_table() -> None:
    ar, jacobi = table(comparison_table([run()]))
    assert ar["method"] == "ar"
    assert ar["speedup"] == ar["end to end"] == "1×"
    assert ar["Δ score"] == "–"
    assert jacobi["speedup"] == "2.00× [2.00, 2.00]"
    assert jacobi["end to end"] == "1.91×"
    assert jacobi["Δ score"] == "same"
    assert jacobi["score"] == "100% [61, 100]"
    assert jacobi["tok/s"] == "2.00"
    assert jacobi["tokens/pass"] == jacobi["accept length"] == "1.00"
    assert jacobi["first token ms"] == "500"
    assert jacobi["exact match"] == "100%"
    assert jacobi["cut-off"] == "0%"
    assert jacobi["peak memory / params"] == "– / 1.00k"
    assert {"failed", "repetitive", "run", "model", "vs own AR"}.isdisjoint(ar)


def test_columns_line_up_in_the_raw_text() -> None:
    text = comparison_table([run()])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in lines}) == 1
    assert text.endswith("\n")
    assert "None" not in text
    assert "nan" not in text


def test_a_reader_learns_what_was_measured_and_how() -> None:
    text = comparison_table([run()])
    assert (
        "## spider\n\n`spider (built-in, 6)` · execution accuracy · replies of at most 256" in text
    )
    assert "decoding speed relative to `ar` on the target checkpoint" in text
    assert "- model mini; questions `spider (built-in, 6)`" in text
    assert "- prompts: spider spider-1\n" in text
    assert (
        "- device cpu (EPYC, 2 cores, Linux); dtype float32, attention sdpa, engine eager" in text
    )
    assert (
        "- 3 repeats of each question (median), methods in balanced order; greedy; seed 0" in text
    )
    assert "cllm-bench 0.1.0, python 3.11.9, torch 2.13.0, commit abcdef0123; 2026-07-01" in text


def test_sampling_and_extra_parameters_are_told() -> None:
    more = cell("jacobi", extra_parameters=500_000)
    used = manifest(cell("ar"), more, sampling=Sampling(0.7, 0.9))
    text = comparison_table([run(used=used)])
    assert "in balanced order; sampled at temperature 0.7, top-p 0.9; seed 0" in text
    assert table(text)[1]["peak memory / params"] == "– / 1.00k + 500k"


def test_lossy_methods_and_false_claims_are_marked() -> None:
    used = manifest(cell("ar"), cell("jacobi"), cell("medusa", exactness="lossy"))
    rows = rows_of(paces={**PACES, "medusa": 0.4})
    rows[6] = row("jacobi", "q0", 0.5, verdict="mismatch", first_difference=2)
    rows[12] = row("medusa", "q0", 0.4, verdict="mismatch", first_difference=2)
    rows[13] = row("medusa", "q1", 0.4, verdict="tie", first_difference=2)
    text = comparison_table([run(rows, used)])
    _, jacobi, medusa = table(text)
    assert medusa["method"] == "medusa (lossy)"
    assert medusa["exact match"] == "66.7%"
    assert jacobi["Δ score"] != "same"
    assert jacobi["mismatch"] == "1"
    assert medusa["ties / expected"] == "1 / –"
    assert (
        "- **jacobi claims to be exact and is not**: 0 of 6 replies part from the baseline's at a "
        "numerical tie and 1 otherwise" in text
    )
    assert "- medusa (lossy): 1 of 6 replies part from the baseline's at a numerical tie" in text


def test_another_checkpoint_is_compared_with_its_own_baseline_too() -> None:
    own = "ar:checkpoint=cllm"
    used = manifest(cell("ar"), cell(own, "cllm"), cell("cllm", "cllm"))
    text = comparison_table([run(rows_of(paces={"ar": 1.0, own: 2.0, "cllm": 0.5}), used)])
    ar, own_ar, cllm = table(text)
    assert (ar["vs own AR"], own_ar["vs own AR"]) == ("–", "–")
    assert cllm["vs own AR"] == "4.00× [4.00, 4.00]"
    assert own_ar["speedup"] == "0.50× [0.50, 0.50]"
    # Equal to its own baseline is not equal to the target's.
    assert cllm["Δ score"] == "0 [−35, +35] pp"


def test_mechanism_table() -> None:
    rows = [row("ar", "q0")]
    rows.append(
        row(
            "jacobi",
            "q0",
            0.25,
            accept_lengths=(1, 2, 2, 5),
            drafted=(4, 3, 4, 4),
            counters={"fast_forwarded_per_iteration": 1.7},
        )
    )
    text = comparison_table([run(rows)])
    (jacobi,) = table(text, 1)
    assert jacobi == {
        "method": "jacobi",
        "speedup": "4.0×",
        "speedup ÷ tokens/pass": "1.60",
        "drafted/pass": "3.8",
        "wasted": "60.0%",
        "accepted by position": "75 25 25 33",
        "fast forwarded per iteration": "1.70",
        "passes by accept length": "1: 25%, 2: 50%, 5+: 25%",
    }
    assert "How the passes went" not in comparison_table([run()])


def test_what_a_reader_must_beware_of() -> None:
    left_out = {"gold query cannot run": ("a", "b")}
    notes = ("2 gold queries return\nno rows",)
    used = manifest(tasks=(task(samples=7, left_out=left_out, notes=notes),))
    rows = rows_of()
    rows[10:] = [
        failed("jacobi", "q4", error="RuntimeError: a | b"),
        row("jacobi", "q5", tokens=1, repetitive=True),
    ]
    rows += [row("ar", f"q{i}", 2.0, repeat=1, finish="length") for i in range(6)]
    text = comparison_table([run(rows, used)])
    assert table(text)[1]["failed"] == "1/6"
    assert table(text)[1]["repetitive"] == "16.7%"
    for note in (
        "left out: 2 questions (gold query cannot run)",
        "2 gold queries return no rows",
        "incomplete: ar has answered 6 of 7 questions",
        "jacobi: 1 reply ended with the prefill and has no decoding time",
        "only 6 questions: too few",
        "noisy machine: repeats of a question differ by 33% for ar (interquartile",
        "jacobi failed on 1 of 6 questions (16.7%), which count as score 0: "
        "RuntimeError: a | b (1×)",
    ):
        assert f"\n- {note}" in text


def test_a_run_that_has_not_begun_is_a_table_of_dashes() -> None:
    text = comparison_table([run([])])
    for line in table(text):
        rest = {k: v for k, v in line.items() if k not in ("method", "checkpoint")}
        assert set(rest.values()) == {"–", "– / 1.00k"}
    assert "incomplete: jacobi has answered 0 of 6 questions" in text


def test_a_pipe_in_a_label_does_not_break_the_table() -> None:
    label = "jacobi:stop=a|b"
    text = comparison_table(
        [run(rows_of(paces={"ar": 1.0, label: 0.5}), manifest(cell("ar"), cell(label)))]
    )
    assert "| jacobi:stop=a\\|b |" in text


def test_runs_of_two_models_merge_into_one_table() -> None:
    big = manifest(model="big")
    text = comparison_table([run(), run(used=big)])
    assert [(line["model"], line["method"]) for line in table(text)] == [
        ("mini", "ar"),
        ("mini", "jacobi"),
        ("big", "ar"),
        ("big", "jacobi"),
    ]
    assert text.count("\n## spider\n") == 1
    assert "- run 1: model mini;" in text
    assert "- run 2: model big;" in text


def test_runs_of_one_model_are_numbered_and_warned_about() -> None:
    used = manifest(tasks=(task(source="Spider dev"),))
    text = comparison_table([run(), run(used=used)])
    assert [line["run"] for line in table(text)] == ["1", "1", "2", "2"]
    assert "the runs asked different questions" in text
    assert "`spider (built-in, 6)`" in text
    assert "`spider (Spider dev, 6)`" in text


def test_each_task_has_its_own_table() -> None:
    used = manifest(tasks=(task(), task("chat", best_score=10.0)))
    rows = rows_of() + [row("ar", f"c{i}", task="chat", score=float(i)) for i in range(6)]
    text = comparison_table([run(rows, used)])
    assert text.index("## spider") < text.index("## chat")
    assert re.fullmatch(r"2\.5 \[\d\.\d, \d\.\d\]", table(text, 1)[0]["score"])


def test_making_a_table_imports_nothing_heavy() -> None:
    script = (
        "import sys, cllm_bench.report.tables, cllm_bench.report.summary;"
        "import cllm_bench.results.folder;"
        "heavy = ('torch', 'pandas', 'scipy', 'transformers', 'rich');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
