"""Medusa's heads: what they compute, their files, and heads and trees that do not fit."""

import json

import pytest
import torch
from families import write_family
from medusa_decoders import random_weights
from random_models import tiny_model
from safetensors.torch import save_file

from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench_methods.medusa.heads import read_heads, write_heads
from cllm_bench_methods.medusa.method import Medusa
from cllm_bench_methods.medusa.tree import Tree

CPU = Runtime("cpu", "float32", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def bind(folder, tmp_path):
    """Bind a method to a family with heads of these weights and notes."""
    tiny = find_family(str(folder), runtime=CPU)

    def bound(weights=None, config=None, role=tmp_path / "heads", **settings):
        if weights is not None:
            role.mkdir(exist_ok=True)
            write_heads(role, weights, config or {})
        roles = {**tiny.roles, "medusa": Checkpoint(str(role))}
        return Medusa(**settings).bind(ModelFamily(FamilyDescription("tiny", roles), CPU))

    bound.model = tiny.model("target")
    return bound


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_heads_compute_what_the_paper_says(bind, own, layers):
    weights = random_weights(bind.model, 3, layers, own)
    weights = {key: each.bfloat16().float() for key, each in weights.items()}
    decoder = bind(weights, tree="0.0;1")
    assert decoder.extra_parameters == sum(
        each.numel() for key, each in weights.items() if not key.startswith("2.")
    )
    hidden = torch.randn(32, generator=torch.Generator().manual_seed(1))
    found = decoder.heads.best(hidden, 4)
    assert found.shape == (2, 4)  # no more heads than the tree is deep
    for head in range(2):
        state = hidden
        for layer in range(layers):
            name = f"{head}.{layer}.linear"
            state = state + torch.nn.functional.silu(
                weights[f"{name}.weight"] @ state + weights[f"{name}.bias"]
            )
        projection = weights[f"{head}.{layers}.weight"] if own else None
        projection = bind.model.get_output_embeddings().weight if projection is None else projection
        assert found[head].tolist() == (projection @ state).topk(4).indices.tolist()


def test_the_tree(bind):
    weights = random_weights(bind.model, 3)
    worths = {"0": 0.8, "0.0": 0.6, "1": 0.1, "0.0.0": 0.1, "1.0": 0.05}
    noted = {"medusa": {"tree": "0.0;1", "worths": worths}}
    assert bind(weights, noted).tree == Tree.parse("0.0;1")
    assert bind(weights, noted, nodes=1).tree == Tree.parse("0")
    assert bind(weights, noted, nodes=4).tree == Tree.parse("0.0.0;1")
    assert bind(weights, noted, nodes=99).tree == Tree.parse("0.0.0;1.0")
    assert bind(weights, noted, tree="chain").tree == Tree.chain(3)
    assert bind(weights, noted, tree="1.2").tree == Tree.parse("1.2")


def test_the_tree_of_heads_without_notes(bind):
    weights = random_weights(bind.model, 5)
    tree = bind(weights).tree
    assert (len(tree.nodes), tree.depth) == (63, 5)
    assert set(Tree.chain(4).nodes) < set(tree.nodes)
    assert len(bind(weights, nodes=7).tree.nodes) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tree": "0.x"}, "tree=0.x is not auto, chain or paths of ranks such as '0.0;0.1;1'"),
        ({"tree": "0", "nodes": 3}, "nodes=3 is for tree=auto, not for tree=0"),
        ({"nodes": -1}, "nodes must be 0 or more"),
        ({"epsilon": 0.0}, "epsilon and alpha above 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        Medusa(**settings)


def test_heads_that_do_not_fit(bind, tmp_path):
    own = random_weights(bind.model, 3)
    with pytest.raises(UserError, match=r"tree=0.0.0.0 is 4 guesses deep, .* has 3 heads"):
        bind(own, tree="0.0.0.0")
    with pytest.raises(UserError, match=r"tree=0.400 .* rank 400, .* knows 285 tokens"):
        bind(own, tree="0.400")
    narrow = random_weights(tiny_model("llama", hidden_size=16, vocab_size=285))
    with pytest.raises(UserError, match=r"'0.0.linear.bias' has shape \(16,\), and \(32,\) would"):
        bind(narrow, role=tmp_path / "narrow")
    fewer = random_weights(tiny_model("llama"))
    with pytest.raises(UserError, match=r"'0.1.weight' has shape \(61, 32\), and \(285, 32\)"):
        bind(fewer, role=tmp_path / "fewer")
    lacking = {key: each for key, each in own.items() if key != "1.0.linear.bias"}
    with pytest.raises(UserError, match=r"'1.0.linear.bias' has shape none, and \(32,\) would"):
        bind(lacking, role=tmp_path / "lacking")
    with pytest.raises(UserError, match="has no 'medusa' checkpoint"):
        Medusa().bind(find_family(str(tmp_path.parent / bind.model.name_or_path), runtime=CPU))


def test_files_that_hold_no_heads(bind, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=f"'{empty}' holds no Medusa heads, in medusa_lm_head.safe"):
        bind(role=empty)
    (empty / "medusa_lm_head.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"cannot read the Medusa heads in '{empty}': Safetensor"):
        bind(role=empty)
    save_file({"lm_head.weight": torch.ones(2, 2)}, empty / "medusa_lm_head.safetensors")
    with pytest.raises(UserError, match="holds no Medusa heads"):
        bind(role=empty)


def published(folder, weights):
    """Leave heads as the published ones are: pickled, and with a wrong number in the file."""
    folder.mkdir(parents=True)
    torch.save(weights, folder / "medusa_lm_head.pt")
    config = {"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "a/b"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_published_heads_in_a_folder(bind, tmp_path):
    weights = random_weights(bind.model, 5)
    published(tmp_path / "published", weights)
    decoder = bind(role=tmp_path / "published", tree="chain")
    assert decoder.tree == Tree.chain(5)
    assert torch.equal(decoder.heads.projections[3].T, weights["3.1.weight"])


def test_pickled_code_is_not_run(tmp_path):
    published(tmp_path / "evil", {"0.0.linear.weight": print})
    with pytest.raises(UserError, match=r"cannot read the Medusa heads in .*: UnpicklingError"):
        read_heads(Checkpoint(str(tmp_path / "evil")))


def test_heads_on_the_hub(bind, tmp_path, monkeypatch):
    commit = "f" * 40
    place = tmp_path / "models--someone--heads"
    weights = random_weights(bind.model, 3)
    published(place / "snapshots" / commit, weights)
    (place / "refs").mkdir()
    (place / "refs" / "v2").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = read_heads(Checkpoint("someone/heads", "v2"))
    assert found.count == 3
    assert found.config["base_model_name_or_path"] == "a/b"
    assert torch.equal(found.weights["2.1.weight"], weights["2.1.weight"])
    with pytest.raises(UserError, match="cannot read the Medusa heads in 'someone/others'"):
        read_heads(Checkpoint("someone/others"))
