import pytest
import torch
from families import write_checkpoint, write_family
from random_models import KINDS, tiny_config, tiny_model

from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.family import find_family
from cllm_bench.engine.family_file import BUNDLED, FILE, bundled_families, read_family
from cllm_bench.engine.loading import fingerprint, load_model, refuse_behaviour, refuse_config
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError

CPU = Runtime("cpu", "float32", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


def test_a_family_folder(folder):
    family = find_family(str(folder), runtime=CPU)
    assert family.name == "tiny"
    assert list(family.roles) == ["target", "other"]
    assert not family.description.built_in
    assert family.model("target") is family.model("target")
    assert family.vocabulary("target") == len(family.tokenizer)
    assert family.stop_ids == {family.tokenizer.eos_token_id}
    assert family.pad_id == family.tokenizer.pad_token_id
    tied = sum(p.numel() for p in family.model("target").parameters())
    assert family.parameters("target") == tied


def test_a_checkpoint_folder_is_a_family_of_one(folder):
    family = find_family(str(folder / "target"), runtime=CPU)
    assert list(family.roles) == ["target"]
    with pytest.raises(UserError, match=r"has no 'cllm' checkpoint .it has: target.; train one"):
        family.checkpoint("cllm")


def test_roles_from_the_command_line(folder):
    roles = {"draft": str(folder / "other"), "target": "some/one@v2"}
    family = find_family(str(folder), roles=roles, runtime=CPU)
    assert family.checkpoint("draft").location == str(folder / "other")
    assert family.checkpoint("target") == Checkpoint("some/one", "v2")
    assert not family.checkpoint("target").local


def test_the_bundled_families_are_complete():
    assert bundled_families()
    for name in bundled_families():
        family = read_family(BUNDLED / name / FILE)
        assert family.name == name
        assert all(checkpoint.local for checkpoint in family.roles.values())
    weights = sum(file.stat().st_size for file in BUNDLED.rglob("*.safetensors"))
    assert weights <= 25 * 2**20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name =", "Invalid value"),
        ("[roles]\ntarget = 3", "must give each role a path or a Hub id"),
        ('[roles]\ntarget = "nowhere"', "no folder"),
        ("[run]\nthreads = -1", "threads = -1 under .run. is not a number of threads"),
        ("[run]\ndata = 3", "data = 3 under .run. is neither 'built-in' nor 'hub'"),
    ],
)
def test_a_malformed_family_file(tmp_path, text, message):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=message):
        find_family(str(tmp_path))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"has neither family.toml nor config.json"):
        find_family(str(tmp_path))


def test_the_fingerprint_follows_the_weights(tmp_path):
    one = Checkpoint(str(write_checkpoint(tmp_path / "one")))
    same = Checkpoint(str(write_checkpoint(tmp_path / "same")))
    other = Checkpoint(str(write_checkpoint(tmp_path / "other", seed=1)))
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)


def test_precision_is_the_run_s(folder):
    half = find_family(str(folder), runtime=Runtime("cpu", "bfloat16", threads=1))
    assert half.model("target").dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_models_whose_cache_rolls_back_are_taken(kind):
    refuse_config(tiny_config(kind), kind)
    refuse_behaviour(tiny_model(kind), kind)


def test_recurrent_states_and_encoders_are_refused():
    from transformers import MambaConfig, RecurrentGemmaConfig, T5Config

    for config in (MambaConfig(), RecurrentGemmaConfig()):
        with pytest.raises(UserError, match=r"'x' cannot be measured here: .*linear_attention"):
            refuse_config(config, "x")
    with pytest.raises(UserError, match="encoder-decoder"):
        refuse_config(T5Config(), "x")


def test_a_model_that_answers_otherwise_after_a_rollback_is_refused():
    """What its configuration does not tell, its behaviour does."""
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(UserError, match="its recurrent state cannot roll back"):
        refuse_behaviour(mamba.eval(), "x")
    forgetful = tiny_model("llama")
    forward = forgetful.forward
    kept = ("input_ids", "position_ids", "use_cache", "logits_to_keep")
    forgetful.forward = lambda **inputs: forward(**{name: inputs[name] for name in kept})
    with pytest.raises(UserError, match="rolled back, its cache gives other logits"):
        refuse_behaviour(forgetful, "x")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    """transformers would fill them with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "one")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(Checkpoint(str(folder)), CPU)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot load the model of"):
        load_model(Checkpoint(str(tmp_path)), CPU)
