"""Checkpoints with quantised weights: run as they are, named in every table, or refused."""

import json

import pytest
import torch
from families import cli, rows, write_checkpoint, write_task
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from cllm_bench.engine.checkpoint import Checkpoint, Quantisation, declared_kind
from cllm_bench.engine.family import find_family
from cllm_bench.engine.fused_layers import fused_layers_of
from cllm_bench.engine.loading import load_model, load_weights
from cllm_bench.engine.memory import footprint
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench.machine.roofline import weight_bytes
from cllm_bench.results.folder import ResultFolder

CPU = Runtime("cpu", "float32", threads=1)
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # blocks of 64 weights share a scale
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq-4bit"),
        ({"quant_method": "awq", "w_bit": 4}, "awq-4bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-4bit"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-8bit"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3}}},
            "hqq-3bit",
        ),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8"}}}, "torchao"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
            },
            "ct-4bit",
        ),
        (FP8, "fp8"),
        (None, None),
    ],
)
def test_how_tables_call_it(declared, kind):
    assert declared_kind(LlamaConfig(quantization_config=declared)) == kind


def declare(folder, quantisation):
    """Let a checkpoint say that its weights are quantised."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"quantization_config": quantisation}), encoding="utf-8")
    return Checkpoint(str(folder))


def test_without_its_package_it_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.quantizers.quantizer_gptq.is_optimum_available", bool)
    checkpoint = declare(
        write_checkpoint(tmp_path / "one"), {"quant_method": "gptq", "bits": 4, "dataset": "c4"}
    )
    with pytest.raises(UserError, match=r"cannot load .* requires optimum") as refused:
        load_model(checkpoint, CPU)
    assert "\n" not in str(refused.value)


def test_what_transformers_does_not_know_is_refused(tmp_path):
    """It would only warn, and read packed numbers as weights."""
    checkpoint = declare(write_checkpoint(tmp_path / "one"), {"quant_method": "new", "bits": 2})
    with pytest.raises(UserError, match="does not know its quantisation, 'new-2bit'"):
        load_model(checkpoint, CPU)


def write_fp8(folder):
    """Store the weights of every layer as 8-bit floats, with one scale for each."""
    write_checkpoint(folder)
    file = folder / "model.safetensors"
    stored = {}
    for name, weight in load_file(file).items():
        if ".layers." in name and weight.dim() == 2:
            scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
        else:
            stored[name] = weight
    save_file(stored, file, metadata={"format": "pt"})
    return declare(folder, FP8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may compute with such weights")
def test_weights_that_nothing_here_multiplies_are_expanded_and_every_table_says_so(
    tmp_path, monkeypatch
):
    """Of all formats the one that needs no package; library rows run on the same weights."""
    checkpoint = write_fp8(tmp_path / "target")
    whole = write_checkpoint(tmp_path / "plain")
    assert footprint(checkpoint, CPU) == footprint(Checkpoint(str(whole)), CPU)
    out, task = tmp_path / "out", write_task(tmp_path)
    asked = ["run", "--model", tmp_path / "target", "--plugin", task, "--task", "counting"]
    asked += ["--method", "jacobi", "--method", "hf_generate", "--limit", 2, "--repeats", 1]
    asked += ["--no-noise-floor", "--device", "cpu", "--threads", 1]
    assert cli(monkeypatch, *asked, "--data", tmp_path, "--output", out) == 0
    assert {row["verdict"] for row in rows(out)} == {"exact"}
    manifest = ResultFolder.read(out).manifest
    assert manifest.quantised == {"target": Quantisation("fp8", "float32", expanded=True)}
    table = (out / "table.md").read_text(encoding="utf-8")
    assert (
        "the weights of target are quantised: fp8, expanded to float32: there is no kernel" in table
    )
    assert "target (fp8)" in table
    assert " (target fp8); questions" in table


def write_quantised(folder, settings):
    """Save what transformers makes of a small model with a quantisation, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    plain = write_checkpoint(folder.parent / "plain", **WIDE)
    model = AutoModelForCausalLM.from_pretrained(
        plain, dtype=torch.bfloat16, device_map="cpu", quantization_config=settings
    )
    model.save_pretrained(folder)
    for file in plain.glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return find_family(str(plain), runtime=CPU), find_family(str(folder), runtime=CPU)


def check_quantised(plain, family, kind, *, share):
    """Weights stay quantised, are counted as they are stored, and a session runs on them."""
    model = family.model("target")
    assert family.quantised("target") == Quantisation(kind, "bfloat16")
    assert family.parameters("target") == plain.parameters("target")
    assert not fused_layers_of(model)
    whole = weight_bytes(plain.model("target")) / 2  # in bfloat16
    layers = sum(p.numel() for p in plain.model("target").model.layers.parameters()) * 2
    stored = weight_bytes(model) - (whole - layers)
    assert share <= stored / layers < share + 0.2
    held = footprint(family.checkpoint("target"), family.runtime).weights
    assert weight_bytes(model) <= held < 1.5 * whole + 5000
    session = family.session("target")
    logits = session.prefill(torch.tensor([1, 2, 3])).logits
    assert torch.isfinite(logits).all()


def test_a_library_s_copy_has_the_same_quantised_weights(tmp_path, monkeypatch):
    """What is asked about the shared weights must not change them: their `state_dict` would."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    write_quantised(tmp_path / "quantised", settings)
    out, task = tmp_path / "out", write_task(tmp_path)
    asked = ["run", "--model", tmp_path / "quantised", "--plugin", task, "--task", "counting"]
    asked += ["--method", "hf_generate", "--limit", 4, "--repeats", 1, "--no-noise-floor"]
    asked += ["--device", "cpu", "--threads", 1, "--data", tmp_path, "--output", out]
    assert cli(monkeypatch, *asked) == 0
    assert {row["verdict"] for row in rows(out)} == {"exact"}
    assert "target (bnb-4bit)" in (out / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bits", "share"), [(4, 0.25), (8, 0.5)])
def test_weights_of_bitsandbytes_stay_quantised(tmp_path, bits, share):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings = {4: {"bnb_4bit_compute_dtype": torch.bfloat16}, 8: {}}[bits]
    settings = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, **settings)
    families = write_quantised(tmp_path / "quantised", settings)
    check_quantised(*families, f"bnb-{bits}bit", share=share)


@pytest.mark.filterwarnings("ignore")
def test_weights_of_torchao_stay_quantised(tmp_path):
    """They are tensors of another kind in layers of the ordinary kind: nothing may fuse them."""
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
    from transformers import TorchAoConfig

    settings = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    families = write_quantised(tmp_path / "quantised", settings)
    check_quantised(*families, "torchao", share=0.5)


def write_int8(folder):
    """Store the weights of every layer as integers, with a scale for each row."""
    write_checkpoint(folder, **WIDE)
    file = folder / "model.safetensors"
    stored = {}
    for name, weight in load_file(file).items():
        if ".layers." in name and weight.dim() == 2:
            scale = weight.abs().amax(1, keepdim=True) / 127
            stored[name] = (weight / scale).round().to(torch.int8)
            stored[f"{name}_scale"] = scale
        else:
            stored[name] = weight
    save_file(stored, file, metadata={"format": "pt"})
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    group = {"format": "int-quantized", "targets": ["Linear"], "weights": weights}
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    settings |= {"quantization_status": "compressed", "config_groups": {"group_0": group}}
    return declare(folder, settings | {"ignore": ["lm_head"]})


@pytest.mark.filterwarnings("ignore")
def test_layers_whose_weights_are_integers_are_not_fused(tmp_path):
    """compressed-tensors keeps ordinary layers, and expands their weights at their first pass."""
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")
    checkpoint = write_int8(tmp_path / "one")
    family = find_family(checkpoint.location, runtime=CPU)
    assert not fused_layers_of(family.model("target"))
    assert family.quantised("target") == Quantisation("ct-8bit", "float32", expanded=True)
    ids = torch.tensor([1, 2, 3, 4])
    with torch.inference_mode():
        expected = load_weights(checkpoint, CPU).eval()(input_ids=ids[None]).logits[0, -1]
    found = family.session("target").prefill(ids).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
