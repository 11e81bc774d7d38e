"""Perplexity in a run: the right figure, measured once for each checkpoint."""

from __future__ import annotations

import json
import math

import pytest
from families import cli, rows, write_checkpoint
from random_models import tiny_model
from telling import TASK

from cllm_bench.contracts import ScoredText, TextTask
from cllm_bench.decoding.perplexity import Window
from cllm_bench.errors import UserError
from cllm_bench.measurement import perplexity as perplexity_pass


@pytest.fixture
def run(tiny, telling, tmp_path, monkeypatch):
    """Measure the text on the tiny family; return exit code and folder."""

    def start(task="telling", *more, output=tmp_path / "out"):
        options = ["--method", "ar", "--method", "jacobi", "--method", "ar:checkpoint=other"]
        options += ["--plugin", telling, "--threads", 1, "--repeats", 1, "--output", output]
        return cli(monkeypatch, "run", "--model", tiny[0], "--task", task, *options, *more), output

    return start


def stored(folder):
    lines = (folder / "perplexity.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def plain(checkpoint, text, window, stride):
    """The perplexity by transformers alone: whole windows, or the last one cut."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt").input_ids
    total, count, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        if stride == window and begin + window > ids.shape[1]:
            break
        labels = ids[:, begin:end].clone()
        labels[:, : previous - begin] = -100
        with torch.no_grad():
            loss = model(input_ids=ids[:, begin:end], labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * scored, count + scored, end
        if end == ids.shape[1]:
            break
    return math.exp(total / count), count, ids.shape[1]


@pytest.mark.parametrize(
    ("task", "stride"),
    [("telling", 64), ("telling:stride=24,remainder=score", 24), ("telling:stride=1", 1)],
)
def test_it_is_what_transformers_alone_gives(run, tiny, task, stride):
    namespace = {}
    exec(TASK.partition("@dataclass")[0], namespace)
    code, folder = run(task)
    assert code == 0
    for found in stored(folder):
        expected, scored, tokens = plain(
            tiny[0] / found["checkpoint"], namespace["TEXT"], 64, stride
        )
        assert found["token_perplexity"] == pytest.approx(expected, rel=1e-4)
        assert (found["tokens"], found["text_tokens"]) == (scored, tokens)
        words = len(namespace["TEXT"].split())
        assert found["words"] == words
        assert math.log(found["word_perplexity"]) == pytest.approx(
            math.log(expected) * tokens / words, rel=1e-4
        )
        assert sum(count for count, _ in found["parts"]) == scored
        assert sum(nll for _, nll in found["parts"]) == pytest.approx(found["nll"])


def test_pieces_of_the_softmax_add_up(monkeypatch):
    import torch

    model = tiny_model("gpt2")
    ids = torch.randint(0, 61, (50,), generator=torch.Generator().manual_seed(1))
    whole = perplexity_pass.negative_log_likelihood(model, ids, Window(3, 10, 50))
    monkeypatch.setattr(perplexity_pass, "_CHUNK", 61 * 7)
    pieces = perplexity_pass.negative_log_likelihood(model, ids, Window(3, 10, 50))
    assert pieces == pytest.approx(whole, rel=1e-6)
    with torch.no_grad():
        logits = torch.log_softmax(model(ids[None, 3:]).logits[0].double(), -1)
    expected = -sum(float(logits[place - 4, ids[place]]) for place in range(10, 50))
    assert whole == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_summed_in_single(monkeypatch):
    import torch

    model = tiny_model("llama")
    ids = torch.randint(0, 61, (300,), generator=torch.Generator().manual_seed(1))
    exact = perplexity_pass.negative_log_likelihood(model, ids, Window(0, 1, 300))
    low = tiny_model("llama").to(torch.bfloat16)
    found = perplexity_pass.negative_log_likelihood(low, ids, Window(0, 1, 300))
    with torch.no_grad():
        logits = low(ids[None, :-1]).logits[0].float()
    assert found == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")), rel=1e-5
    )
    assert found == pytest.approx(exact, rel=0.05)


def test_measured_once_for_each_checkpoint_and_shared_by_its_methods(run):
    code, folder = run()
    assert code == 0
    found = stored(folder)
    assert [(each["task"], each["checkpoint"]) for each in found] == [
        ("telling", "target"),
        ("telling", "other"),
    ]
    assert len({each["key"] for each in found}) == 2
    assert all(each["seconds"] > 0 and each["windows"] > 5 for each in found)
    assert all(row["score"] is None and row["finish"] != "failed" for row in rows(folder))
    summaries = {s["method"]: s for s in json.loads((folder / "summary.json").read_text())}
    ar, jacobi, other = (summaries[name] for name in ("ar", "jacobi", "ar:checkpoint=other"))
    assert ar["score"] == jacobi["score"] == found[0]["token_perplexity"]
    assert other["score"] == found[1]["token_perplexity"]
    assert ar["score_ci"][0] < ar["score"] < ar["score_ci"][1]
    assert (ar["metric"], ar["perplexity"]["word"]) == ("perplexity", found[0]["word_perplexity"])
    assert (ar["score_difference"], ar["score_difference_ci"]) == (None, None)
    assert (jacobi["score_difference"], jacobi["score_difference_ci"]) == (0.0, None)
    assert other["score_difference"] == pytest.approx(other["score"] - ar["score"])
    low, high = other["score_difference_ci"]
    assert low < other["score_difference"] < high
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert "perplexity (lower is better)" in text
    assert "word perplexity" in text
    assert "windows of 64 tokens (a partial last window is dropped)" in text
    assert (
        "%" not in text.split("| method")[1].split("\n")[2].split("|")[3]
    )  # the score is no share


def test_a_resume_measures_nothing_again(run, monkeypatch):
    code, folder = run()
    before = (folder / "perplexity.jsonl").read_bytes(), (folder / "summary.json").read_bytes()

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(perplexity_pass, "negative_log_likelihood", never)
    assert run()[0] == code == 0
    after = (folder / "perplexity.jsonl").read_bytes(), (folder / "summary.json").read_bytes()
    assert after == before


def test_a_line_cut_by_a_kill_is_measured_again_and_no_other(run):
    _, folder = run()
    file = folder / "perplexity.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + second[:-20])
    assert run()[0] == 0
    assert file.read_bytes().splitlines(keepends=True)[0] == first
    again = stored(folder)
    assert [each["checkpoint"] for each in again] == ["target", "other"]
    assert (again[1]["attempt"], again[1]["nll"]) == (1, json.loads(second)["nll"])
    assert (folder / "perplexity.jsonl.damaged").read_bytes() == second[:-20]


def test_a_damaged_line_is_named(run, capsys):
    _, folder = run()
    file = folder / "perplexity.jsonl"
    file.write_text(file.read_text().replace('"windows"', '"curtains"', 1))
    capsys.readouterr()
    assert run()[0] == 2
    assert "perplexity.jsonl' line 1 is damaged (no 'windows')" in capsys.readouterr().err


def test_the_table_is_made_from_what_is_stored(run, monkeypatch, capsys):
    _, folder = run()
    capsys.readouterr()
    assert cli(monkeypatch, "table", folder) == 0
    assert capsys.readouterr().out == (folder / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("telling:window=600", "a window of 600 tokens, and 'target' has 512 positions; give"),
        ("telling:window=600", "room for: telling:window=512"),
        ("telling:stride=65", "a stride of 65 and windows of 64 tokens; give a window of at least"),
        ("telling:stride=0", "a stride of 0 and windows of 64 tokens"),
        ("telling:window=1", "a stride of 1 and windows of 1 tokens"),
    ],
)
def test_windows_that_cannot_be(run, capsys, task, message):
    code, folder = run(task)
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "\n" not in error.strip()
    assert not folder.exists()


def test_a_text_that_fills_no_window(tmp_path, telling, monkeypatch, capsys):
    checkpoint = write_checkpoint(tmp_path / "model", "llama")
    short = telling.read_text().replace("range(180)", "range(10)").replace("Telling", "Short")
    (tmp_path / "short.py").write_text(short)
    options = ["run", "--model", checkpoint, "--plugin", tmp_path / "short.py", "--threads", 1]
    options += ["--method", "ar", "--repeats", 1, "--output", tmp_path / "out"]
    assert cli(monkeypatch, *options, "--task", "short") == 2
    assert "which fill no window of 64; give it a smaller window" in capsys.readouterr().err
    assert cli(monkeypatch, *options, "--task", "short:remainder=score") == 0
    assert stored(tmp_path / "out")[0]["windows"] == 1


def test_weights_without_probabilities_are_told(run, monkeypatch, capsys):
    monkeypatch.setattr(perplexity_pass, "negative_log_likelihood", lambda *_: math.nan)
    assert run()[0] == 2
    assert "of 'target' cannot be measured: the model gives no finite" in capsys.readouterr().err


def test_text_tasks_are_told_apart(telling):
    from cllm_bench.core.registry import Registry

    registry = Registry([telling])
    assert isinstance(registry.tasks.get("telling")(), TextTask)
    assert not isinstance(registry.tasks.get("spider")(), TextTask)


def test_a_full_device_is_told(monkeypatch):
    import torch

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(perplexity_pass, "negative_log_likelihood", full)
    texts = object.__new__(perplexity_pass.Texts)
    wanted = perplexity_pass.Wanted(
        type("Plan", (), {"label": "ptb"}), ScoredText("", 4, 4), "target", "k"
    )
    with pytest.raises(
        UserError, match=r"of 'target' cannot be measured: CUDA out.*smaller window"
    ):
        texts._scored(wanted, None, torch.zeros(4), Window(0, 1, 4))
