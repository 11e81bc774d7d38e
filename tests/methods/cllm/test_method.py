"""The method `cllm`: Jacobi decoding of one role, and the checkpoints that it refuses."""

import json
import shutil

import pytest
import torch
from families import cli, rows, write_checkpoint, write_family

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.engine.loading import TOKENIZER_FILES
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.cllm.method import Cllm
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_methods.target.from_scratch import train_tokenizer

CPU = Runtime("cpu", "float32", threads=1)
PROMPT = torch.arange(5, 25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A family with a `cllm`, whose checkpoint has no tokenizer files: published ones lack them."""
    folder = tmp_path_factory.mktemp("family")
    write_family(folder)
    bare = write_checkpoint(folder / "cllm", seed=2)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    text = (folder / "family.toml").read_text(encoding="utf-8")
    (folder / "family.toml").write_text(text + 'cllm = "cllm"\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def family(folder):
    return find_family(str(folder), runtime=CPU)


def tokens(method, family):
    decoder = method.bind(family)
    found = generate(
        decoder,
        PROMPT,
        sampling=Sampling(),
        max_new_tokens=40,
        stop_ids=(),
        clock=Clock(),
    )
    return found.token_ids, found.accept_lengths


def test_ar_decoding_is_the_baseline_on_the_same_checkpoint(family):
    expected = tokens(Autoregressive("cllm"), family)
    assert tokens(Cllm(decoding="ar"), family) == expected
    assert expected[0] != tokens(Autoregressive(), family)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_size": 7},
        {"block_size": 5, "refill": "sliding"},
        {"guess": "vocab", "seed": 3},
        {"checkpoint": "other", "guess": "last"},
    ],
)
def test_jacobi_decoding_is_jacobi_with_the_same_settings(family, settings):
    jacobi = Jacobi(**{"checkpoint": "cllm", **settings})
    decoder = Cllm(**settings).bind(family)
    assert isinstance(decoder, JacobiDecoder)
    assert decoder.settings == jacobi
    found = tokens(Cllm(**settings), family)
    assert found == tokens(jacobi, family)
    assert found[0] == tokens(Autoregressive(jacobi.checkpoint), family)[0]


def test_a_checkpoint_says_how_it_was_trained_and_the_user_has_the_last_word(folder, tmp_path):
    noted = shutil.copytree(folder / "cllm", tmp_path / "noted")
    config = json.loads((noted / "config.json").read_text(encoding="utf-8"))
    config["cllm"] = {"block_size": 9, "guess": "last", "from a later release": 1}
    (noted / "config.json").write_text(json.dumps(config), encoding="utf-8")
    family = find_family(str(folder), roles={"cllm": str(noted)}, runtime=CPU)
    own = Cllm().bind(family).settings
    assert (own.block_size, own.guess, own.checkpoint) == (9, "last", "cllm")
    told = Cllm(block_size=4, guess="pad").bind(family).settings
    assert (told.block_size, told.guess) == (4, "pad")


@pytest.mark.parametrize("decoding", ["ar", "jacobi"])
def test_a_block_of_one_is_refused(decoding):
    with pytest.raises(UserError, match="block_size must be at least 2, not 1"):
        Cllm(decoding=decoding, block_size=1)


def test_rows_of_a_run(monkeypatch, tmp_path, tiny, folder):
    arguments = [
        "run",
        "--no-noise-floor",
        "--model",
        folder,
        "--plugin",
        tiny[1],
        "--task",
        "counting:count=3",
    ]
    methods = ["--method", "cllm", "--method", "cllm:decoding=ar", "--repeats", 1, "--threads", 1]
    out = tmp_path / "out"
    command = [*arguments, *methods, "--data", tmp_path, "--device", "cpu", "--output", out]
    assert cli(monkeypatch, *command) == 0
    found = rows(out)
    labels = {"ar", "ar:checkpoint=cllm", "cllm", "cllm:decoding=ar"}
    assert {row["method"] for row in found} == labels
    for sample in {row["sample"] for row in found}:
        own = [row["token_ids"] for row in found if row["sample"] == sample]
        assert len(own) == 4
        assert len(set(map(tuple, own))) == 2  # the target's, and the checkpoint's three times


def message(monkeypatch, capsys, *arguments):
    """The one line of a command that ends with code 2."""
    assert cli(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_family_without_the_role(monkeypatch, tmp_path, command, capsys):
    out = tmp_path / "out"
    asked = [*command, "--method", "cllm", "--data", tmp_path, "--output", out]
    line = message(monkeypatch, capsys, *asked)
    assert "has no 'cllm' checkpoint; train one: `cllm-bench train cllm --model" in line
    assert "--task counting --output DIR`" in line
    assert "or name one with --role cllm=PATH_OR_HUB_ID" in line
    assert not out.exists()


def other_vocabulary(folder):
    write_checkpoint(folder)
    train_tokenizer(["nine ten eleven twelve"] * 4, 290).save_pretrained(folder)
    return folder


def other_end(folder):
    write_checkpoint(folder)
    tokenizer = train_tokenizer(["one two three four five six seven eight"] * 4, 300)
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(folder)
    return folder


def smaller(folder):
    """A model with fewer ids than the tokenizer that it is used with."""
    from random_models import tiny_model

    tiny_model("llama", vocab_size=100).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (other_vocabulary, "tokens have other ids or none; name a checkpoint that was made from"),
        (other_end, "its end token is '<|pad|>', not '<|end|>'; name a checkpoint that was made"),
        (smaller, "knows 100 token ids, and 'target' ("),
    ],
)
def test_a_tokenizer_that_differs_between_roles(
    monkeypatch, tmp_path, command, capsys, write, expected
):
    role = write(tmp_path / "cllm")
    out = tmp_path / "out"
    asked = [*command, "--data", tmp_path, "--output", out, "--method", "cllm"]
    line = message(monkeypatch, capsys, *asked, "--role", f"cllm={role}")
    assert expected in line
    assert "'cllm'" in line
    assert "'target'" in line
    assert "--role cllm=PATH_OR_HUB_ID" in line
    assert not out.exists()


def test_it_is_told_before_weights_are_read(folder, tmp_path):
    role = other_vocabulary(tmp_path / "cllm")
    (role / "model.safetensors").write_bytes(b"not read")
    family = find_family(str(folder), roles={"cllm": str(role)}, runtime=CPU)
    with pytest.raises(UserError, match="the tokenizer of 'cllm'"):
        family.model("cllm")


def test_a_family_without_a_target_has_nothing_to_differ_from(folder, tmp_path):
    from cllm_bench.engine.checkpoint import Checkpoint
    from cllm_bench.engine.family import ModelFamily

    role = other_vocabulary(tmp_path / "cllm")
    family = ModelFamily(FamilyDescription("odd", {"cllm": Checkpoint(str(role))}), CPU)
    assert family.model("cllm") is family.model("cllm")


def test_the_files_that_make_a_tokenizer(folder):
    assert "tokenizer.json" in TOKENIZER_FILES
    assert not any((folder / "cllm" / name).exists() for name in TOKENIZER_FILES)
    assert (folder / "target" / "tokenizer.json").exists()
