"""The benchmark beside llama.cpp: the conversion, the clocks, and both programs on a tiny model."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import tiny_model
from synthetic import row

from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench_tasks.spider.task import Spider

HERE = Path(__file__).parent
WHY = "the extra `engines` is not installed"
ROOM = 770  # tokens of the model: two more than the tokenizer has


@pytest.fixture(scope="module")
def llama_cpp():
    """The script; what it imports from its own folder is found there."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(HERE)
    spec = importlib.util.spec_from_file_location("llama_cpp", HERE / "llama_cpp.py")
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, "llama_cpp", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    patch.undo()


@pytest.fixture(scope="module")
def llama_gguf(llama_cpp):
    pytest.importorskip("gguf", reason=WHY)
    return importlib.import_module("llama_gguf")


@pytest.fixture(scope="module")
def tokenizer():
    return find_family("mini").tokenizer


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    return tiny_model("llama-grouped", vocab_size=ROOM, tie_word_embeddings=request.param)


def read(path):
    import gguf

    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    return values, {each.name: each.data for each in reader.tensors}


def test_rows_are_paired_as_llama_cpp_turns_them(llama_gguf):
    """Two heads of six: rows i and i + 3 of a head become neighbours."""
    rows = np.arange(12, dtype=np.float32)[:, None] * np.ones((1, 5), dtype=np.float32)
    assert llama_gguf.paired(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_a_file_holds_the_weights(llama_gguf, model, tokenizer, tmp_path):
    path = tmp_path / "model.gguf"
    llama_gguf.write_gguf(path, model, tokenizer, stop_id=1)
    _, found = read(path)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    if not model.config.tie_word_embeddings:
        expected["output.weight"] = weights["lm_head.weight"]
    size = model.config.head_dim
    places = {  # where a row of the file stands in the checkpoint
        heads: [
            head * size + pair + half * size // 2
            for head in range(heads)
            for pair in range(size // 2)
            for half in (0, 1)
        ]
        for heads in (model.config.num_attention_heads, model.config.num_key_value_heads)
    }
    for layer in range(model.config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        expected |= {
            f"{theirs}.attn_norm.weight": weights[f"{ours}.input_layernorm.weight"],
            f"{theirs}.attn_q.weight": weights[f"{ours}.self_attn.q_proj.weight"][places[4]],
            f"{theirs}.attn_k.weight": weights[f"{ours}.self_attn.k_proj.weight"][places[2]],
            f"{theirs}.attn_v.weight": weights[f"{ours}.self_attn.v_proj.weight"],
            f"{theirs}.attn_output.weight": weights[f"{ours}.self_attn.o_proj.weight"],
            f"{theirs}.ffn_norm.weight": weights[f"{ours}.post_attention_layernorm.weight"],
            f"{theirs}.ffn_gate.weight": weights[f"{ours}.mlp.gate_proj.weight"],
            f"{theirs}.ffn_up.weight": weights[f"{ours}.mlp.up_proj.weight"],
            f"{theirs}.ffn_down.weight": weights[f"{ours}.mlp.down_proj.weight"],
        }
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_a_file_holds_shape_and_vocabulary(llama_gguf, model, tokenizer, tmp_path):
    path = tmp_path / "model.gguf"
    llama_gguf.write_gguf(path, model, tokenizer, stop_id=1)
    found, _ = read(path)
    shape = {
        name.removeprefix("llama."): value
        for name, value in found.items()
        if name.startswith("llama.")
    }
    assert shape == {
        "vocab_size": ROOM,
        "context_length": 512,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
    }
    tokens = found["tokenizer.ggml.tokens"]
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert len(tokens) == len(set(tokens)) == ROOM
    kinds = found["tokenizer.ggml.token_type"]
    assert (kinds[:3], kinds[-3:]) == ([3, 3, 1], [1, 5, 5])  # control, normal, unused
    assert found["tokenizer.ggml.eos_token_id"] == 1
    assert found["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("qwen2", {}, "model_type qwen2"),
        ("llama", {"attention_bias": True}, "attention_bias True"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type linear",
        ),
    ],
)
def test_what_the_file_would_not_describe_is_refused(
    llama_gguf, tokenizer, tmp_path, kind, changes, told
):
    other = tiny_model(kind, **changes)
    with pytest.raises(UserError, match=told):
        llama_gguf.write_gguf(tmp_path / "model.gguf", other, tokenizer, stop_id=1)
    assert not list(tmp_path.iterdir())


def test_llama_cpp_gives_the_replies_of_ar(llama_cpp, llama_gguf, tokenizer, tmp_path):
    pytest.importorskip("xllamacpp", reason=WHY)
    folder = tmp_path / "target"
    tiny_model("llama-grouped", vocab_size=ROOM).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    family = find_family(str(folder), runtime=Runtime("cpu", "float32", threads=1).resolve())
    found, facts = llama_cpp.compare(family, Spider(max_new_tokens=24), 3)
    assert (found.exact + found.tie, found.mismatch) == (3, 0)
    assert set(facts["versions"]) == set(llama_cpp.PACKAGES)

    decoder = llama_cpp.LlamaCpp().bind(family)
    steps = []
    prompt = torch.tensor(tokenizer("SELECT").input_ids)
    decoder.answer(prompt, None, max_new_tokens=5, stop_ids=(), settle=steps.append)
    assert [len(step.tokens) for step in steps] == [5]
    assert decoder.counters()["predicted_n"] == 5
    with pytest.raises(RuntimeError, match=r"llama\.cpp: .*context"):
        decoder.server.complete([5] * 5000, 5)
    decoder.server.close()


def test_the_weights_run_where_both_programs_run_them(llama_cpp, llama_gguf):
    family = find_family("mini", runtime=Runtime("cpu", "bfloat16", threads=1).resolve())
    with pytest.raises(UserError, match="--dtype float32"):
        llama_cpp.LlamaCpp().bind(family)


def test_a_reply_is_divided_by_the_engines_own_clock(llama_cpp):
    """30 ms, of which 20 went by from the first of five tokens to the last and 8 before that."""
    own = {"prompt_ms": 8.0, "predicted_ms": 20.0, "predicted_n": 5.0}
    reply = {"prefill_tokens": 5, "prefill_seconds": 0.030, "decode_seconds": 0.0}
    whole = row("llama_cpp", "q0", token_ids=(7, 8, 9, 7, 1), counters=own, **reply)
    found = llama_cpp.by_own_clock(whole)
    assert (found.prefill_tokens, found.decoded_tokens, found.passes) == (1, 4, 4)
    assert found.prefill_seconds == pytest.approx(0.010)
    assert found.decode_seconds == pytest.approx(0.020)
    assert llama_cpp.transport([whole]) == pytest.approx(2 / 30)

    cut = llama_cpp.by_own_clock(row("llama_cpp", "q0", token_ids=(7, 8), counters=own, **reply))
    assert cut.prefill_seconds == pytest.approx(0.010)
    assert cut.decode_seconds == pytest.approx(0.005)  # one of the four steps
    other = row("ar", "q0")
    assert llama_cpp.by_own_clock(other) is other


def test_missing_packages_are_one_line(llama_cpp, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(llama_cpp.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["llama_cpp.py", "--output", str(tmp_path)])
    assert llama_cpp.main() == 2
    told = capsys.readouterr().err
    assert told == "error: no package xllamacpp and gguf here; pip install -e '.[engines]'\n"
