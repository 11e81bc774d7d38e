"""A run from order to rows: the second baseline, passes timed in its pauses, and what it stores."""

import json
from collections import Counter

import pytest
import torch
from families import cli, rows

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.engine import pass_timing as pass_clock
from cllm_bench.engine.pass_timing import TURN
from cllm_bench.engine.passes import parse_shape
from cllm_bench.engine.products import trial
from cllm_bench.machine import cache_flush, roofline
from cllm_bench.measurement import executor as answering
from cllm_bench.measurement import plan as plan_module
from cllm_bench.measurement import runner
from cllm_bench.report.summary import summarise_folder
from cllm_bench.results.folder import SAMPLES, ResultFolder
from cllm_bench.results.pass_times import missing_shapes
from cllm_bench.results.summary import read_summaries


def summaries(folder):
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {each["method"]: each for each in found}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny):
    """A run with everything that is on by default."""
    out = tmp_path_factory.mktemp("measured") / "out"
    family, plugin = tiny
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["run", "--model", family, "--plugin", plugin, "--task", "counting"]
        methods = ["--method", "jacobi", "--method", "lookahead", "--method", "hf_generate"]
        more = ["--threads", 1, "--repeats", 2, "--data", out.parent, "--output", out]
        assert cli(patch, *arguments, *methods, *more) == 0
    return out


def test_the_baseline_is_measured_twice(measured):
    found = summaries(measured)
    assert list(found)[:2] == ["ar", "ar A/A"]
    again = found["ar A/A"]
    assert again["exact_match"] == 1.0
    assert again["score"] == found["ar"]["score"]
    low, high = again["speedup_ci"]
    assert low < again["speedup"] < high
    stored = json.loads((measured / "manifest.json").read_text(encoding="utf-8"))
    assert [each["method"] for each in stored["cells"] if each["again"]] == ["ar A/A"]
    assert "noise floor" in (measured / "table.md").read_text(encoding="utf-8")


def test_what_a_run_stores_is_of_the_kinds_that_are_declared(measured):
    folder = ResultFolder.read(measured)
    stored = json.loads((measured / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(folder.manifest.to_json())) == stored
    assert stored["schema"] == SCHEMA
    assert read_summaries(measured / "summary.json") == summarise_folder(folder)


def test_of_many_questions_some_at_regular_places_are_asked_again(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(plan_module, "AGAIN", 6)
    family, plugin = tiny
    arguments = ["run", "--model", family, "--plugin", plugin, "--task", "counting"]
    more = ["--method", "jacobi", "--repeats", 2, "--threads", 1, "--data", tmp_path]
    out = tmp_path / "out"
    assert cli(monkeypatch, *arguments, *more, "--output", out) == 0
    found = rows(out)
    asked = {
        label: [each["sample"] for each in found if each["method"] == label and not each["repeat"]]
        for label in ("ar", "ar A/A")
    }
    assert len(asked["ar"]) == 8
    assert asked["ar A/A"] == [asked["ar"][place] for place in (0, 1, 2, 4, 5, 6)]
    rounds = {}
    for each in found:
        rounds.setdefault((each["sample"], each["repeat"]), []).append(each)
    for size, count in ((2, 4), (3, 12)):  # methods take turns among the rounds of as many
        groups = [group for group in rounds.values() if len(group) == size]
        assert len(groups) == count
        assert (
            len({(each["method"], each["order"]) for group in groups for each in group}) == size**2
        )
    again = summaries(out)["ar A/A"]
    assert (again["samples"], again["samples_timed"]) == (6, 6)
    assert (again["score"], again["score_ci"], again["score_difference"]) == (None, None, 0)
    assert summaries(out)["ar"]["score"] is not None
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "measured a second time, on 6 evenly spaced questions of 8: " in table
    assert "unfinished" not in table
    kept = (out / "samples.jsonl").read_bytes()
    assert cli(monkeypatch, *arguments, *more, "--output", out) == 0
    assert (out / "samples.jsonl").read_bytes() == kept


def test_passes_are_timed_in_the_pauses_of_a_run(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(answering, "ROUNDS_TO_A_BINDING", 2)
    monkeypatch.setattr(runner, "ROUNDS_TO_A_PAUSE", 3)
    family, plugin = tiny
    arguments = ["run", "--model", family, "--plugin", plugin, "--task", "counting"]
    more = ["--method", "jacobi", "--limit", 4, "--threads", 1, "--data", tmp_path]
    assert cli(monkeypatch, *arguments, *more, "--output", tmp_path / "out") == 0
    times = ResultFolder.read(tmp_path / "out").pass_times
    assert {each.repeats for each in times} == {TURN}
    # New bindings come before rounds 3, 5, 7, 9 and 11 of 12; from 5 on a question comes again, and
    # from one pause to the next there are three rounds at least.
    assert set(Counter(each.shape for each in times).values()) == {2}


def test_it_takes_its_turn_like_any_other(measured):
    orders = {(each["method"], each["order"]) for each in rows(measured)}
    assert {order for method, order in orders if method == "ar A/A"} == {0, 1, 2, 3, 4}


def test_passes_are_counted_by_shape(measured):
    for each in rows(measured):
        shapes = {parse_shape(text): count for text, count in each["pass_shapes"].items()}
        if each["method"] == "hf_generate":
            assert not shapes
            continue
        assert sum(shapes.values()) == len(each["accept_lengths"])
        assert {shape.role for shape in shapes} == {"target"}
        if each["method"].startswith("ar"):
            assert {(shape.rows, shape.tree) for shape in shapes} <= {(1, False)}
        if each["method"] == "lookahead":
            assert all(shape.tree for shape in shapes)


def test_passes_alone_predict_speedups(measured):
    found = summaries(measured)
    assert found["ar"]["predicted_speedup"] == pytest.approx(1.0)
    assert found["ar A/A"]["predicted_speedup"] == pytest.approx(1.0)
    assert found["jacobi"]["predicted_speedup"] > 0
    assert found["hf_generate"]["predicted_speedup"] is None
    folder = ResultFolder.read(measured)
    timed = {each.shape for each in folder.pass_times}
    assert timed == {shape for each in folder.rows for shape in each.pass_shapes}
    assert "predicted" in (measured / "table.md").read_text(encoding="utf-8")


def test_a_resumed_run_times_only_what_is_missing(measured):
    folder = ResultFolder.read(measured)
    assert missing_shapes(folder.rows, "counting", folder.pass_times) == []
    first, *others = folder.pass_times
    assert missing_shapes(folder.rows, "counting", others) == [parse_shape(first.shape)]


def refuse_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_room_for_passes_alone_a_run_still_ends(monkeypatch, tmp_path, command):
    monkeypatch.setattr(pass_clock, "time_passes", refuse_memory)
    monkeypatch.setattr(roofline, "bandwidth", lambda _: None)
    asked = ["--method", "jacobi", "--data", tmp_path, "--limit", 2, "--repeats", 1]
    assert cli(monkeypatch, *command, *asked, "--output", tmp_path / "out") == 0
    found = summaries(tmp_path / "out")["jacobi"]
    assert found["predicted_speedup"] is None
    assert found["bandwidth_share"] is None
    assert found["speedup"] > 0
    assert "jacobi" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert ResultFolder.read(tmp_path / "out").pass_times == []


def test_caches_are_emptied_where_that_is_asked_for(monkeypatch, tmp_path, command):
    monkeypatch.setattr(cache_flush, "LEAST_BYTES", 4096)
    monkeypatch.setattr(cache_flush, "last_level_bytes", lambda _: 0)
    asked = ["--method", "jacobi", "--data", tmp_path, "--limit", 1, "--repeats", 1]
    asked += ["--flush-caches", "--output", tmp_path / "out"]
    assert cli(monkeypatch, *command, *asked) == 0
    stored = ResultFolder.read(tmp_path / "out").manifest
    assert stored.flushed_bytes == 4096
    assert stored.configuration["flush_caches"] is True
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "caches emptied before each timed reply" in table


def test_a_resumed_run_goes_on_with_the_kernels_of_its_products(monkeypatch, tmp_path, command):
    """Where it was stopped, a trial might find others."""
    monkeypatch.setattr(trial, "LEAST_BYTES", 0)
    asked = ["--method", "jacobi", "--data", tmp_path, "--limit", 1, "--repeats", 1]
    asked += ["--output", tmp_path / "out"]
    assert cli(monkeypatch, *command, *asked) == 0
    found = ResultFolder.read(tmp_path / "out").manifest.products["target"]
    assert found.rows == trial.ROWS
    lines = (tmp_path / "out" / SAMPLES).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "out" / SAMPLES).write_text("".join(lines[:1]), encoding="utf-8")
    monkeypatch.setattr(trial, "_tried", None)
    assert cli(monkeypatch, *command, *asked) == 0
    assert ResultFolder.read(tmp_path / "out").manifest.products["target"] == found
    assert len(ResultFolder.read(tmp_path / "out").rows) == len(lines)
