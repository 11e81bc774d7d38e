"""What surrounds the times: a second baseline, a watched machine, passes alone, memory's roof."""

import gc
import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families import cli, rows
from synthetic import cell, manifest, row
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cllm_bench.contracts import Sampling
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.engine import pass_timing as pass_clock
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.pass_timing import TURN, WARM_UP, time_passes, time_prefill
from cllm_bench.engine.passes import PassLog, Shape, parse_shape
from cllm_bench.engine.runtime import Runtime
from cllm_bench.machine import environment as manifest_module
from cllm_bench.machine import interference as machine_watch
from cllm_bench.machine import roofline
from cllm_bench.machine.interference import MachineWatch, gpu_slowed
from cllm_bench.measurement import executor as answering
from cllm_bench.measurement import plan as plan_module
from cllm_bench.measurement import runner
from cllm_bench.measurement.executor import Executor
from cllm_bench.measurement.prompts import Prompt
from cllm_bench.report.prediction import predicted_paces
from cllm_bench.report.summary import summarise, summarise_folder
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.pass_times import PassTime, missing_shapes
from cllm_bench.results.summary import read_summaries
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.medusa.method import Medusa


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
    assert "measured once more, on 6 of 8 questions at regular places: " in table
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


@pytest.mark.parametrize(
    ("pace", "told"), [(1.0, "say nothing here"), (1.1, "which should hold 1")]
)
def test_a_favoured_place_is_seen(pace, told):
    """The planted defect: one of two equal methods runs a tenth slower."""
    used = manifest(cell("ar"), cell("ar A/A", again=True), samples=40)
    noise = [1 + 0.01 * ((7 * i) % 11 - 5) for i in range(40)]
    found = [row("ar", f"q{i}", 1.0) for i in range(40)]
    found += [row("ar A/A", f"q{i}", pace * noise[i]) for i in range(40)]
    text = comparison_table([(used, summarise(used, found))])
    assert told in text
    assert ("**noise floor" in text) == (pace > 1)


def test_foreign_load_is_other_programs_alone(tmp_path):
    stat = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")

    def tell(busy):
        stat.write_text(f"cpu {int(busy * ticks)} 0 0 500 0 0 0 0 0 0\ncpu0 1\n", encoding="ascii")

    tell(100)
    watch = MachineWatch("cpu", stat, tmp_path)
    watch._last = watch._last._replace(wall=watch._last.wall - 10)  # ten seconds ago
    tell(115)
    lap = watch.lap()
    assert lap.foreign_load == pytest.approx(1.5, abs=0.1)
    assert lap.slowed == ()
    assert MachineWatch("cpu", tmp_path / "none", tmp_path).lap().foreign_load is None


def test_own_work_is_not_foreign():
    watch = MachineWatch("cpu")
    if watch._last.busy is None:
        pytest.skip("this system does not tell what its processors do")
    script = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", script], check=True)  # a grader, for example
    before = watch._last.own
    watch.lap()
    assert watch._last.own - before >= 0.5


def test_a_hot_processor_is_told(tmp_path):
    counter = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("3\n", encoding="ascii")
    watch = MachineWatch("cpu", cores=tmp_path)
    assert watch.lap().slowed == ()
    counter.write_text("4\n", encoding="ascii")
    assert watch.lap().slowed == ("processor too hot",)
    assert watch.lap().slowed == ()


@pytest.fixture
def cards(monkeypatch):
    """Two cards that the driver counts otherwise than CUDA does."""
    found = {"cuda": "11aa", "cuda:0": "11aa", "cuda:1": "00bb"}

    def properties(device):
        return SimpleNamespace(name="H100", total_memory=80, uuid=found[device])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def test_the_manifest_describes_the_card_that_is_used(monkeypatch, cards):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="580.1\n")

    monkeypatch.setattr(manifest_module.subprocess, "run", run)
    found = manifest_module.machine("cuda:1")
    assert found.driver == "580.1"
    assert [command[:3] for command in asked] == [("nvidia-smi", "-i", "GPU-00bb")] * 2


def test_the_driver_says_why_a_gpu_is_slow(monkeypatch, cards):
    asked = []

    def run(command, **_):
        asked.append(command)
        if "clocks_event_reasons.active" in command[3]:
            raise subprocess.CalledProcessError(2, command)  # an older driver
        return subprocess.CompletedProcess(command, 0, stdout="0x0000000000000044\n")

    monkeypatch.setattr(machine_watch.subprocess, "run", run)
    assert gpu_slowed("cuda:1") == ("power cap", "too hot (hardware)")
    assert asked[0][:3] == ("nvidia-smi", "-i", "GPU-00bb")
    watch = MachineWatch("cuda")
    assert watch.lap().slowed == ("power cap", "too hot (hardware)")
    assert asked[-1][2] == "GPU-11aa"
    count = len(asked)
    watch.lap()
    assert len(asked) == count  # the driver is not asked at every lap


def test_a_disturbed_run_says_so():
    used = manifest(cell("ar"), cell("jacobi"))
    calm = [row(name, "q0", foreign_load=0.1) for name in ("ar", "jacobi")]
    busy = [replace(each, foreign_load=0.9, slowed=("power cap",)) for each in calm]
    assert "other programs" not in comparison_table([(used, summarise(used, calm))])
    text = comparison_table([(used, summarise(used, busy))])
    assert "they kept 0.9 of 2 cores busy" in text
    assert "slowed down while it was timed**: power cap" in text


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


def test_predictions_by_hand():
    twice = row("jacobi", "q0", tokens=11, pass_shapes={"4 target": 5, "1 draft": 10})
    unknown = row("jacobi", "q1", pass_shapes={"8 target": 5})
    silent = row("jacobi", "q2")
    paces = predicted_paces(
        {each.sample: [each] for each in (twice, unknown, silent)},
        {"4 target": 0.2, "1 draft": 0.05, "1 target": 0.1},
    )
    assert paces == {"q0": pytest.approx((5 * 0.2 + 10 * 0.05) / 10)}
    used = manifest(cell("ar"), cell("jacobi"))
    times = [PassTime("spider", "1 target", 9, 0.1, 21, 0)]
    times += [replace(times[0], shape="4 target", seconds=0.1)]
    found = summarise(
        used,
        [
            row("ar", "q0", pass_shapes={"1 target": 10}),
            row("jacobi", "q0", pass_shapes={"4 target": 5}),
        ],
        pass_times=times,
    )
    assert [each.predicted_speedup for each in found] == [
        pytest.approx(1.0),
        pytest.approx(2.0),
    ]


def test_what_several_pauses_measured_counts_together():
    used = manifest(cell("ar"), cell("jacobi"))
    one, four = (PassTime("spider", f"{rows} target", 9, 0.1, 3, 0) for rows in (1, 4))
    slow, usual = replace(four, seconds=0.9, repeats=2), replace(four, seconds=0.2, repeats=4)
    found = summarise(
        used,
        [
            row("ar", "q0", pass_shapes={"1 target": 10}),
            row("jacobi", "q0", pass_shapes={"4 target": 5}),
        ],
        pass_times=[one, four, slow, usual],  # of 3, 2 and 4 passes the median is 0.2
    )
    assert found[1].predicted_speedup == pytest.approx(1.0)


@pytest.mark.parametrize(("engine", "expected"), [("eager", [5, 10]), ("graph", [])])
def test_methods_are_bound_anew_every_few_rounds(tiny, engine, expected):
    """What is constant in a session's place in memory must vary within a run."""
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    bound, capturing = [], replace(family.runtime, engine=engine)

    class Method(Autoregressive):
        def bind(self, _):
            bound.append(super().bind(family))
            return bound[-1]

    class Other(Method):
        def bind(self, _):
            others.append(len(bound))
            return super().bind(_)

    others = []
    cells = [SimpleNamespace(label="ar", method=Method())]
    cells.append(SimpleNamespace(label="other", method=Other()))
    used = replace(family, runtime=capturing)
    answering = Executor(SimpleNamespace(specs=cells, family=used), Clock())
    used.part("heads", 1, lambda: torch.zeros(1))  # of the first binding
    longest = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    pauses = [number for number in range(13) if answering.prepare("counting", longest)]
    assert pauses == expected
    assert len(bound) == 2 * (1 + len(pauses))
    assert bool(used.parts("heads")) == (engine == "graph")  # else memory would hold both
    # Freed memory is taken again in order: whoever is bound first must change.
    assert others == [1, 2, 5][: 1 + len(pauses)]
    assert len({id(decoder.session) for decoder in bound}) == len(bound)
    assert answering.ask(cells[0], longest).generation is not None
    assert not answering.prepare("another task", longest)  # its own warm-up


@pytest.mark.parametrize("watched", [True, False])
def test_what_was_bound_is_freed_before_it_is_bound_anew(tiny, watched, monkeypatch):
    """Also what holds itself, as a hook on a model does: memory must never hold both.

    Some kinds of things cannot be watched by a weak reference.
    """
    if not watched:
        monkeypatch.setattr(
            "cllm_bench.measurement.executor.weakref", SimpleNamespace(ref=lambda _: len(0))
        )
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    bound, alive = [], []

    class Method(Autoregressive):
        def bind(self, _):
            alive.append(sum(each() is not None for each in bound))
            decoder = super().bind(family)
            decoder.itself = decoder
            bound.append(weakref.ref(decoder))
            return decoder

    cell = SimpleNamespace(label="ar", method=Method())
    answering = Executor(SimpleNamespace(specs=[cell], family=family), Clock())
    longest = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    thresholds = gc.get_threshold()
    gc.set_threshold(0)  # nothing is collected by chance
    try:
        assert sum(answering.prepare("counting", longest) for _ in range(8)) == 1
    finally:
        gc.set_threshold(*thresholds)
    assert alive == [0, 0]


def test_memory_is_the_whole_run_s():
    used = manifest(cell("ar"), cell("jacobi"))
    found = [row("ar", "q0"), row("jacobi", "q0")]
    assert "peak memory is" not in comparison_table([(used, summarise(used, found))])
    found[1] = replace(found[1], peak_memory_bytes=5)
    text = comparison_table([(used, summarise(used, found))])
    assert text.count("weights and caches of the other methods are in it") == 1


SHAPES = [
    Shape("target", 16, False),
    Shape("my role", 13, True),
    Shape("target", 5, False, "draft"),
    Shape("medusa heads", 3, False, "my role"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_come_back_as_they_were(shape):
    assert parse_shape(str(shape)) == shape


def test_passes_are_timed_at_their_context(tiny):
    """A clock that counts its readings: each pass is read around once, and rolled back."""
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    shapes = [Shape("target", 1, False), Shape("target", 4, False), Shape("target", 4, True)]
    found = time_passes(family, shapes, 12, Clock(), turns=2)
    assert set(found) == set(shapes)
    assert all(seconds > 0 for seconds in found.values())
    passes = family.take_passes()
    assert passes == {str(shape): 2 * (WARM_UP + TURN) for shape in shapes}
    assert family.take_passes() == {}
    assert time_prefill(family, "target", 8, Clock()) > 0


def test_passes_behind_other_weights_are_timed_behind_them(tiny):
    roles = {"draft": find_family(str(tiny[0])).checkpoint("target").location}
    runtime = Runtime("cpu", "float32", threads=1).resolve()
    family = find_family(str(tiny[0]), roles=roles, runtime=runtime)
    calls = []
    family.part("heads", 3, lambda: calls.append(1) or torch.zeros(4))
    checking, drafting = Shape("target", 4, False, "draft"), Shape("draft", 1, False, "target")
    guessing = Shape("heads", 3, False, "target")
    known = [checking, guessing]
    unknown = [Shape("heads", 2, False), Shape("target", 2, False, "nobody")]
    assert set(time_passes(family, [*known, *unknown], 12, Clock(), turns=1)) == set(known)
    count = WARM_UP + TURN
    assert len(calls) == count  # of which none counts
    passes = family.take_passes()
    # The very first pass of all may come behind the prefill of its own weights.
    behind = [str(checking), str(drafting)]
    assert sum(passes.get(each, 0) for each in behind) >= 2 * count - 2
    assert sum(passes.values()) == 3 * count


def test_a_pass_behind_other_weights_counts_apart():
    log = PassLog()
    log.prefilled("target")
    log.prefilled("draft")
    for role, count in [("draft", 1), ("draft", 1), ("target", 3), ("draft", 2), ("draft", 1)]:
        log.add(role, count, tree=False)
    log.add("target", 3, tree=True)
    assert log.take() == {
        "1 draft": 3,
        "3 target after draft": 1,
        "2 draft after target": 1,
        "3t target after draft": 1,
    }
    log.add("draft", 1, tree=False)
    assert log.take() == {"1 draft": 1}  # another reply


def test_heads_count_as_passes_of_their_own():
    family = find_family("mini", runtime=Runtime("cpu", "float32", threads=1).resolve())
    steps = Medusa(tree="0;0.0;1").bind(family)(torch.arange(5), Sampling())
    for _ in range(4):
        next(steps)
    passes = {"2 medusa heads after target": 3, "4t target after medusa heads": 3}
    assert family.take_passes() == passes
    shapes = [parse_shape(text) for text in passes]
    assert set(time_passes(family, shapes, 12, Clock(), turns=1)) == set(shapes)


def test_the_bytes_of_a_pass():
    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tied = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=True))
    apart = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=False))
    assert roofline.weight_bytes(tied) == 4 * sum(each.numel() for each in tied.parameters())
    assert roofline.weight_bytes(apart) == roofline.weight_bytes(tied)
    assert roofline.cache_bytes(tied) == 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size
    half = tied.to(torch.bfloat16)
    assert roofline.cache_bytes(half) == 2 * 2 * 2 * 8 * 2
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4))
    assert roofline.cache_bytes(gpt2) == 3 * 2 * 32 * 4


def test_the_copy_bandwidth_is_that_of_large_copies():
    found = roofline.copy_bandwidth("cpu")
    assert 1e8 < found < 1e13
    assert roofline.copy_bandwidth("cpu") == found  # measured once a process


def refuse_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_room_the_copy_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch, "ones", refuse_memory)
    assert roofline.copy_bandwidth.__wrapped__("cuda") is None


def test_without_room_for_passes_alone_a_run_still_ends(monkeypatch, tmp_path, command):
    monkeypatch.setattr(pass_clock, "time_passes", refuse_memory)
    monkeypatch.setattr(roofline, "copy_bandwidth", lambda _: None)
    asked = ["--method", "jacobi", "--data", tmp_path, "--limit", 2, "--repeats", 1]
    assert cli(monkeypatch, *command, *asked, "--output", tmp_path / "out") == 0
    found = summaries(tmp_path / "out")["jacobi"]
    assert found["predicted_speedup"] is None
    assert found["bandwidth_share"] is None
    assert found["speedup"] > 0
    assert "jacobi" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert ResultFolder.read(tmp_path / "out").pass_times == []


def test_a_weak_baseline_is_told():
    own = cell("ar", weight_bytes=900, cache_bytes_per_token=4)
    used = manifest(own, copy_bandwidth=10_000.0)
    (found,) = summarise(used, [row("ar", "q0")])
    # one pass a second over the weights and a context of 20 + 5.5 tokens
    assert found.bandwidth_share == pytest.approx((900 + 4 * 25.5) / 10_000)
    assert "far from what memory allows" in comparison_table([(used, [found])])
    strong = replace(used, copy_bandwidth=2000.0)
    assert "far from what" not in comparison_table([(strong, summarise(strong, [row("ar", "q0")]))])
