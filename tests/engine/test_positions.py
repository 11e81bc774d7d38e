"""Attention windows: where a sequence ends, what is refused, and what is stored."""

import json

import pytest
import torch
import transformers
from families import cli, write_checkpoint, write_task
from random_models import WINDOW, tiny_config, tiny_model

from cllm_bench.engine import attention
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.family import find_family
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.loading import load_model, load_weights, refuse_config, refuse_kernel
from cllm_bench.engine.positions import attention_window, forgetful_layers, positions
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench.machine import roofline

TASK = "counting:max_new_tokens=8"
CPU = Runtime("cpu", "float32", threads=1)


@pytest.mark.parametrize(
    ("name", "settings", "window"),
    [
        ("Mistral", {}, 4096),
        ("Mistral", {"sliding_window": None}, None),
        ("Llama", {}, None),
        ("GPT2", {}, None),
        ("Qwen2", {"sliding_window": 64}, None),  # until it is told to use it
        ("Qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),
        ("Phi3", {"sliding_window": 2047}, 2047),
        ("Gemma3Text", {"sliding_window": 512}, 512),
        ("Gemma3Text", {"layer_types": ["full_attention"] * 26, "num_hidden_layers": 26}, None),
        ("Gemma3", {}, 4096),  # the text's, of a model that also sees
        ("Llama4Text", {"attention_chunk_size": 128}, 128),
    ],
)
def test_windows_by_the_configuration(name, settings, window):
    config = getattr(transformers, f"{name}Config")(**settings)
    assert attention_window(config) == window
    assert forgetful_layers(config) == []
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    assert positions(config) == min(each for each in (known, window) if each)


@pytest.mark.parametrize("kernel", ["sdpa", "plain", "eager"])
@pytest.mark.parametrize("kind", ["mistral", "gemma3", "starcoder2"])
@torch.no_grad()
def test_up_to_its_window_a_session_is_the_model_itself(kind, kernel):
    """In one piece, in rows and in a tree, up to the last token; beyond it, the model by itself."""
    attention.register()
    own, fused = (tiny_model(kind, attn_implementation=kernel) for _ in range(2))
    fuse(fused)
    ids = torch.randint(61, (WINDOW + 30,), generator=torch.Generator().manual_seed(0))
    expected = own(ids[None, :WINDOW]).logits[0]
    session = Session(fused)
    session.prefill(ids[:50])
    for start, end in ((50, 51), (51, 67), (67, WINDOW - 1), (WINDOW - 1, WINDOW)):
        rows = end - start
        tree = torch.ones(rows, rows, dtype=torch.bool).tril()
        for more in ({}, {"mask": tree, "depth": torch.arange(rows)}):
            found = session.forward(ids[start:end], **more).logits
            torch.testing.assert_close(found, expected[start:end], rtol=1e-4, atol=1e-4)
        session.keep(rows)
    assert session.room == 0
    with pytest.raises(UserError, match=f"reaches {WINDOW + 1} tokens .* a window of {WINDOW}: "):
        session.forward([1])
    session.prefill(ids[:WINDOW])
    with pytest.raises(UserError, match=f"'target' has a window of {WINDOW}"):
        session.prefill(ids[: WINDOW + 1])
    # Without a session, as perplexity is measured, what the windows hide stays hidden.
    torch.testing.assert_close(fused(ids[None]).logits, own(ids[None]).logits, rtol=1e-4, atol=1e-4)


def test_training_does_not_take_a_model_with_a_window(tmp_path):
    where = Checkpoint(str(write_checkpoint(tmp_path / "one", "mistral")))
    assert attention_window(load_model(where, CPU).config) == WINDOW
    with pytest.raises(UserError, match=f"cannot be trained here: .* a window of {WINDOW} tokens"):
        load_weights(where, CPU)


@pytest.mark.parametrize("recipe", ["cllm", "draft", "medusa"])
def test_a_training_on_one_is_refused_before_it_begins(
    recipe, sliding, tmp_path, monkeypatch, capsys
):
    model, plugin = sliding
    task = ["--plugin", plugin, "--task", "counting:count=100"]
    arguments = ["train", recipe, "--model", model, *task]
    assert cli(monkeypatch, *arguments, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert f"cannot be trained here: its attention has a window of {WINDOW} tokens" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kernel", ["sdpa", "plain"])
def test_capped_scores_need_a_kernel_that_caps_them(kernel, tmp_path):
    config = tiny_config("gemma2")
    refuse_config(config, "x")
    refuse_kernel(config, "eager", "x")
    with pytest.raises(
        UserError, match=f"caps .* at 50, which the kernel '{kernel}' does not know"
    ):
        refuse_kernel(config, kernel, "x")
    folder = write_checkpoint(tmp_path / "gemma2", "gemma2")
    family = find_family(str(folder), runtime=Runtime("cpu", "float32", kernel, threads=1))
    with pytest.raises(UserError, match="run it with --attention eager"):
        family.model("target")


def test_attention_sinks_need_a_kernel_that_knows_them(tmp_path):
    model = tiny_model("gpt-oss", attn_implementation="eager")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has attention sinks, which the kernel 'plain' does not"):
        load_model(Checkpoint(str(tmp_path)), Runtime("cpu", "float32", "plain", threads=1))
    assert load_model(Checkpoint(str(tmp_path)), Runtime("cpu", "float32", "eager", threads=1))


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sliding")
    return write_checkpoint(folder / "model", "mistral"), write_task(folder)


def test_a_run_within_the_window_says_so(sliding, tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "bandwidth", lambda _: None)
    model, plugin = sliding
    out = tmp_path / "out"
    methods = ["--method", "hf_generate", "--no-noise-floor"]
    few = ["--limit", 1, "--repeats", 1, "--threads", 1, "--data", tmp_path, "--output", out]
    arguments = ["run", "--model", model, "--plugin", plugin, "--task", TASK, *methods, *few]
    assert cli(monkeypatch, *arguments) == 0
    stored = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert stored["checkpoints"] == {
        "target": {"layers": 2, "fused_layers": 2, "window": WINDOW, "quantised": None}
    }
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "fused layers: target 2 of 2; " in text
    assert f"attention windows, which no sequence leaves: target {WINDOW} tokens" in text
    summaries = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [each["exact_match"] for each in summaries] == [1.0, 1.0]


def test_a_run_that_may_leave_the_window_is_refused(sliding, tmp_path, monkeypatch, capsys):
    """In one line, before there is a folder."""
    model, plugin = sliding
    out = tmp_path / "out"
    task = ["--task", f"counting:max_new_tokens={WINDOW}"]
    arguments = ["run", "--model", model, "--plugin", plugin, *task, "--method", "jacobi"]
    assert cli(monkeypatch, *arguments, "--threads", 1, "--data", tmp_path, "--output", out) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "leave the attention window of 'target', 96 tokens" in error
    assert "give it max_new_tokens=9" in error
    assert not out.exists()
