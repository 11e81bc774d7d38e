"""Every mistake is one line that names the value and the remedy, and exit code 2."""

import pytest
from families import cli, write_checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "jacoby"], "no method named 'jacoby'; did you mean 'jacobi'?"),
        (["--method", "jacobi:blok_size=3"], "did you mean 'block_size'?"),
        (["--method", "jacobi:block_size=many"], "block_size=many is not an integer"),
        (["--method", "jacobi:refill=up"], "refill=up is not one of block, sliding"),
        (["--method", "jacobi:checkpoint=cllm"], "has no 'cllm' checkpoint"),
        (["--method", "ar", "--task", "spyder"], "no task named 'spyder'; did you mean 'spider'?"),
        (["--method", "ar", "--task", "spider:template=x"], "has no template named 'x'"),
        (["--method", "ar", "--limit", "0"], "--limit must be at least 1, not 0"),
        (["--method", "ar", "--repeats", "0"], "--repeats must be at least 1, not 0"),
        (["--method", "ar", "--device", "cuda:99"], "is not on this machine"),
        (["--method", "ar", "--dtype", "int3"], "dtype 'int3' is not one of"),
        (["--method", "ar", "--attention", "flash"], "not one of sdpa, eager"),
        (["--method", "ar", "--engine", "turbo"], "not one of auto, eager, graph"),
        (["--method", "ar", "--engine", "graph", "--device", "cpu"], "use --engine eager"),
        (["--method", "ar", "--role", "draft=nowhere"], "no folder"),
        (["--method", "ar", "--plugin", "nowhere.py"], "no plugin at 'nowhere.py'"),
        ([], "--method is missing; known: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch, tmp_path, command, capsys, arguments, message
):
    assert cli(monkeypatch, *command, "--data", tmp_path, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["nowhere"], "--data: no folder 'nowhere'"),
        (["countin=."], "no such task in this run; did you mean 'counting'?"),
        ([".", "."], "use TASK=DIR for several"),
    ],
)
def test_bad_data_folders(monkeypatch, tmp_path, command, capsys, data, message):
    monkeypatch.chdir(tmp_path)
    options = [part for text in data for part in ("--data", text)]
    assert cli(monkeypatch, *command, "--method", "ar", *options) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_spider(monkeypatch, tmp_path, tiny, capsys):
    arguments = ["run", "--model", tiny[0], "--method", "ar", "--task", "spider"]
    assert cli(monkeypatch, *arguments, "--data", tmp_path) == 2
    error = capsys.readouterr().err
    assert "dev.json" in error
    assert len(error.strip().splitlines()) == 1


def test_without_data_another_model_asks_the_hub_and_never_the_sample(monkeypatch, tiny, capsys):
    assert cli(monkeypatch, "run", "--model", tiny[0], "--method", "ar", "--task", "spider") == 2
    assert "--data spider=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "kind"), [("built-in", "built-in"), ("counting=built-in", "built-in"), ("hub", "hub")]
)
def test_any_model_asks_the_sample_where_it_is_told_to(monkeypatch, tmp_path, command, data, kind):
    out = tmp_path / "out"
    asked = ["--method", "ar", "--data", data, "--limit", 1, "--output", out]
    assert cli(monkeypatch, *command, *asked) == 0
    assert f"counting ({kind}, 1)" in (out / "table.md").read_text()


@pytest.mark.parametrize("model", ["minni", "no/such/thing", "./nowhere"])
def test_unknown_models(monkeypatch, tmp_path, command, capsys, model):
    assert cli(monkeypatch, *command, "--method", "ar", "--model", model) == 2
    assert f"no model '{model}'" in capsys.readouterr().err


def test_a_hub_model_that_cannot_be_had(monkeypatch, tmp_path, command, capsys):
    arguments = ["--method", "ar", "--data", tmp_path, "--model", "nobody/nothing"]
    assert cli(monkeypatch, *command, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "cannot load" in lines[-1]
    assert "nobody/nothing" in lines[-1]


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_damaged_weights(monkeypatch, tmp_path, command, capsys, kept):
    folder = write_checkpoint(tmp_path / "one")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    capsys.readouterr()
    arguments = ["--method", "ar", "--data", tmp_path, "--model", folder]
    assert cli(monkeypatch, *command, *arguments) == 2
    assert f"cannot load the model of '{folder}': " in one_line(capsys)


@pytest.mark.parametrize("step", ["read", "made fused", "tried"])
def test_a_model_too_large_for_the_device(monkeypatch, tmp_path, command, capsys, step):
    import torch
    import transformers

    from cllm_bench.engine import loading

    def refuse(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    where, name = {
        "read": (transformers.AutoModelForCausalLM, "from_pretrained"),
        "made fused": (loading, "fuse"),
        "tried": (loading, "Session"),
    }[step]
    monkeypatch.setattr(where, name, refuse)
    assert cli(monkeypatch, *command, "--method", "ar", "--data", tmp_path) == 2
    assert "does not fit into the memory of cpu in float32" in one_line(capsys)


def test_an_output_of_another_configuration(monkeypatch, tmp_path, command, capsys):
    common = [*command, "--data", tmp_path, "--output", tmp_path / "out"]
    assert cli(monkeypatch, *common, "--method", "ar") == 0
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    assert cli(monkeypatch, *common, "--method", "jacobi") == 2
    assert "pick another --output" in capsys.readouterr().err
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


def test_a_model_that_cannot_roll_back(monkeypatch, tmp_path, command, capsys):
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1}
    for model in (
        MambaForCausalLM(MambaConfig(**sizes, state_size=4)),
        MistralForCausalLM(
            MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, sliding_window=8)
        ),
    ):
        folder = write_checkpoint(tmp_path / type(model).__name__)
        model.save_pretrained(folder)
        arguments = ["--method", "ar", "--data", tmp_path, "--model", folder]
        assert cli(monkeypatch, *command, *arguments) == 2
        error = capsys.readouterr().err
        assert "cannot be measured here" in error
        assert len(error.strip().splitlines()) == 1
