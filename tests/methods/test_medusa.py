"""Medusa is exact whatever its heads say and whatever its tree; its files, and what it refuses."""

import json
import math
import random

import pytest
import torch
from families import write_family
from greedy_decoding import expected_tokens
from random_models import VOCABULARY, tiny_model
from safetensors.torch import save_file

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.medusa import method as medusa_module
from cllm_bench_methods.medusa.heads import StoredHeads, read_heads, write_heads
from cllm_bench_methods.medusa.method import (
    Medusa,
    MedusaDecoder,
    likeliest_row,
    likely_scores,
    matching_row,
)
from cllm_bench_methods.medusa.tree import Layout, Tree

CPU = Runtime("cpu", "float32", threads=1)
LIMIT = 21
CHAIN = "0.0.0.0"
WIDE = "0;1;2;3;4;5"
DEEP = "0.0.0.0;0.1.0;0.0.1.1;1.0.1;1.1;2"
TREES = pytest.mark.parametrize("text", [CHAIN, WIDE, DEEP], ids=["chain", "wide", "deep"])
GREEDY = Sampling()


def random_weights(model, count=4, layers=1, own=True, seed=0):
    """Weights under the keys of published checkpoints."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, width = model.get_output_embeddings().weight.shape
    found = {}
    for head in range(count):
        for layer in range(layers):
            found[f"{head}.{layer}.linear.weight"] = torch.randn(width, width, generator=generator)
            found[f"{head}.{layer}.linear.bias"] = torch.randn(width, generator=generator)
        if own:
            found[f"{head}.{layers}.weight"] = torch.randn(vocabulary, width, generator=generator)
    return found


def random_heads(model, count):
    return StoredHeads("random", random_weights(model, count), {}).attach(model, count)


class Knowing:
    """Heads that know the reply, and have each token of it at one of the tree's ranks.

    They recognise a position by its hidden state. Some paths lead to the end of the tree and some
    stop on the way, at ranks that differ from position to position.
    """

    parameters = 0

    def __init__(self, model, prompt, reply, tree, hits=0.9):
        self.reply, self.tree, self.hits = reply, tree, hits
        self.seed = len(prompt)
        ids = torch.cat([prompt, torch.tensor(reply)])[None]
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        self.states = states[len(prompt) - 1 :]  # entry i is what predicts reply[i]

    def best(self, hidden, count):
        distances = (self.states - hidden).square().sum(-1)
        place = int(distances.argmin())
        assert float(distances[place]) < 1e-6  # the hidden state of a true prefix, no other
        generator = random.Random(f"{self.seed}/{place}")
        path = generator.choice(self.tree.nodes)
        choices = torch.randint(0, VOCABULARY, (self.tree.depth, count))
        for head in range(self.tree.depth):
            fillers = [token for token in range(VOCABULARY) if token not in self._due(place, head)]
            choices[head] = torch.tensor(generator.sample(fillers, count))
            if head < len(path) and generator.random() < self.hits:
                choices[head, path[head]] = torch.tensor(self._due(place, head) or [0])[0]
        return choices

    def _due(self, place, head):
        return self.reply[place + 1 + head :][:1]


def medusa(model, text, heads=None, **settings):
    tree = Tree.parse(text)
    heads = heads or random_heads(model, tree.depth)
    return MedusaDecoder(Medusa(text, **settings), Session(model), heads, tree)


def decode(decoder, prompt, limit=LIMIT, stop_ids=(), sampling=GREEDY):
    options = {"max_new_tokens": limit, "stop_ids": stop_ids, "clock": Clock()}
    return generate(decoder, prompt, sampling=sampling, **options)


@pytest.fixture(scope="module")
def expected(model, prompts):
    """Some tokens more than are asked for: heads may look beyond the limit."""
    return [expected_tokens(model, prompt, LIMIT + 8) for prompt in prompts]


@TREES
def test_random_heads_change_no_token(model, prompts, expected, text):
    decoder = medusa(model, text)
    guesses = len(decoder.tree.nodes)
    accepted = 0
    for prompt, tokens in zip(prompts, expected, strict=True):
        found = decode(decoder, prompt)
        assert found.token_ids == tokens[:LIMIT]
        assert set(found.drafted) == {guesses}
        accepted += sum(found.accept_lengths) - len(found.accept_lengths)
    assert accepted  # now and then they are right by chance


@TREES
def test_knowing_heads_change_no_token_and_save_passes(model, prompts, expected, text):
    """Long paths are accepted, most of them scattered over the rows of a pass."""
    decoder = medusa(model, text)
    tree = decoder.tree
    lengths = set()
    for prompt, tokens in zip(prompts, expected, strict=True):
        decoder.heads = Knowing(model, prompt, tokens, tree)
        found = decode(decoder, prompt)
        assert found.token_ids == tokens[:LIMIT]
        lengths.update(found.accept_lengths)
        if len(tree.nodes) > tree.depth > 1:
            assert len(found.accept_lengths) < 0.7 * LIMIT
    assert lengths == set(range(1, tree.depth + 2))


@TREES
def test_the_cache_is_right_after_scattered_rows_are_kept(model, prompts, expected, text):
    decoder = medusa(model, text)
    for prompt, tokens in zip(prompts[::4], expected[::4], strict=True):
        decoder.heads = Knowing(model, prompt, tokens, decoder.tree, hits=1.0)
        steps, settled = decoder(prompt, GREEDY), []
        for _ in range(5):
            settled += next(steps).tokens
        session = decoder.session
        assert session.length == len(prompt) + len(settled) - 1  # the newest is not fed yet
        logits = session.forward(settled[-1:]).logits[0]
        plain = model(input_ids=torch.cat([prompt, torch.tensor(settled)])[None]).logits[0, -1]
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_a_stop_token_inside_a_path(model, prompts, expected):
    """Each prompt stops at a token of its own output, another place in the path each time."""
    decoder = medusa(model, DEEP)
    for index, (prompt, tokens) in enumerate(zip(prompts, expected, strict=True)):
        stop = tokens[index % 20]
        decoder.heads = Knowing(model, prompt, tokens, decoder.tree)
        found = decode(decoder, prompt, stop_ids={stop})
        assert found.token_ids == tokens[: tokens.index(stop) + 1]
        assert found.finish == "stop"


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_a_limit_inside_a_path(llama, prompts, limit):
    decoder = medusa(llama, DEEP)
    for prompt in prompts:
        tokens = expected_tokens(llama, prompt, limit + 8)
        decoder.heads = Knowing(llama, prompt, tokens, decoder.tree)
        assert decode(decoder, prompt, limit).token_ids == tokens[:limit]


@TREES
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_tree_does_not_reach_past_the_last_position(prompts, kind, text):
    """The limit uses every position that the model has, and a tree would need more rows."""
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    small = tiny_model(kind, **{length: 32})
    for prompt in prompts[6:14]:
        limit = 32 - len(prompt) + 1  # the last token is never fed
        tokens = expected_tokens(small, prompt, limit)
        decoder = medusa(small, text)
        assert decode(decoder, prompt, limit).token_ids == tokens
        decoder.heads = Knowing(small, prompt, tokens[:-1], decoder.tree)
        found = decode(decoder, prompt, limit)
        assert found.token_ids == tokens
        assert len(found.token_ids) == limit
        with pytest.raises(UserError, match="the model has room for 32"):
            decode(decoder, prompt, limit + 1)


@pytest.mark.parametrize(
    ("text", "temperature", "top_p"), [(CHAIN, 0.7, 1.0), (WIDE, 0.7, 1.0), (DEEP, 1.0, 0.9)]
)
def test_sampled_replies_are_those_of_autoregressive_sampling(
    model, prompts, text, temperature, top_p
):
    assert Medusa().sampled == "exact"
    plain, decoder = AutoregressiveDecoder(Session(model)), medusa(model, text)
    saved = 0
    for seed, prompt in enumerate(prompts[::5]):
        sampling = Sampling(temperature, top_p, seed)
        wanted = decode(plain, prompt, LIMIT + 8, sampling=sampling).token_ids
        assert decode(decoder, prompt, sampling=sampling).token_ids == wanted[:LIMIT]
        knowing = medusa(model, text, Knowing(model, prompt, wanted, decoder.tree))
        found = decode(knowing, prompt, sampling=sampling)
        assert found.token_ids == wanted[:LIMIT]
        saved += LIMIT - 1 - len(found.accept_lengths)
    assert saved


def test_one_decoder_serves_prompt_after_prompt(llama, prompts):
    decoder = medusa(llama, DEEP)
    first = [decode(decoder, prompt) for prompt in prompts[:6]]
    again = [decode(decoder, prompt) for prompt in prompts[:6]]
    assert [each.token_ids for each in first] == [each.token_ids for each in again]
    assert [each.accept_lengths for each in first] == [each.accept_lengths for each in again]


def test_the_matching_path_by_hand():
    """Rows: newest, 0, 0.0, 0.1, 1, 1.0; the model chooses 7 behind the newest."""
    layout = Layout(Tree.parse("0.0;0.1;1.0"), 2, torch.device("cpu"))
    fed = [3, 7, 5, 6, 8, 5]
    assert matching_row(layout, fed, [7, 6, 1, 1, 5, 1]) == 3
    assert matching_row(layout, fed, [8, 6, 1, 1, 5, 1]) == 5
    assert matching_row(layout, fed, [7, 9, 1, 1, 5, 1]) == 1
    assert matching_row(layout, fed, [9, 6, 1, 1, 5, 1]) == 0


def test_typical_acceptance_by_the_formula():
    """Behind the newest the model is unsure, so little is asked; behind row 1 it is sure."""
    unsure = [0.3, 0.3, 0.2, 0.1, 0.06, 0.04]
    sure = [0.88, 0.08, 0.01, 0.01, 0.01, 0.01]
    logs = [math.log(unsure[4]), math.log(sure[1]), math.log(unsure[5])]
    behind = [-sum(p * math.log(p) for p in row) for row in (unsure, sure, unsure)]
    assert 0.3 * math.exp(-behind[0]) == pytest.approx(0.0623, abs=1e-4)  # below epsilon
    # 0.06 is not above 0.0623; 0.08 is not above epsilon; nor is 0.04.
    assert likely_scores(logs, behind, epsilon=0.09, alpha=0.3) == [-math.inf] * 3
    assert likely_scores(logs, behind, epsilon=0.05, alpha=0.3) == [*logs[:2], -math.inf]
    assert likely_scores(logs, behind, epsilon=0.09, alpha=0.27) == [logs[0], *[-math.inf] * 2]


def test_typical_acceptance_judges_each_guess_behind_its_parent(llama):
    """The literal way: each path by a pass of its own."""
    tree = Tree.parse("0.0;0.1;1.0")
    layout = Layout(tree, 2, torch.device("cpu"))
    guesses = torch.tensor([5, 6, 7, 8, 9])  # 0, 0.0, 0.1, 1, 1.0
    session = Session(llama)
    session.prefill(torch.tensor([1, 2]))
    ids = torch.cat([torch.tensor([3]), guesses])
    logits = session.forward(ids, depth=layout.depth, mask=layout.mask).logits
    seen = []

    def scores(logs, entropies, epsilon, alpha):
        seen.extend(zip(logs, entropies, strict=True))
        return likely_scores(logs, entropies, epsilon, alpha)

    decoder = medusa(llama, "0.0;0.1;1.0", acceptance="typical")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medusa_module, "likely_scores", scores)
        decoder._likely_row(layout, guesses, logits, Sampling())
    paths = [(5,), (5, 6), (5, 7), (8,), (8, 9)]
    for (log, entropy), (*before, guess) in zip(seen, paths, strict=True):
        with torch.no_grad():
            p = llama(input_ids=torch.tensor([[1, 2, 3, *before]])).logits[0, -1].softmax(-1)
        assert log == pytest.approx(float(p[guess].log()), abs=1e-3)
        assert entropy == pytest.approx(float(-(p * p.log()).sum()), abs=1e-3)


def test_the_longest_path_wins_and_among_equals_the_likeliest():
    layout = Layout(Tree.parse("0.0;0.1;1.0;2"), 3, torch.device("cpu"))
    no = -math.inf
    #                            0    0.0   0.1   1    1.0   2
    assert likeliest_row(layout, [-1.0, -2.0, -1.0, -1.5, -1.0, -0.1]) == 3
    assert likeliest_row(layout, [-1.0, -2.0, no, -0.5, -0.5, -0.1]) == 5
    assert likeliest_row(layout, [-1.0, no, no, no, -0.5, -0.1]) == 6
    assert likeliest_row(layout, [no, -0.1, -0.1, no, -0.5, no]) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_typical_acceptance_that_asks_for_everything_or_nothing(llama, prompts, temperature):
    settings = Medusa(acceptance="typical")
    assert (settings.exactness, settings.sampled) == ("lossy", "lossy")
    strict = medusa(llama, DEEP, acceptance="typical", epsilon=1.0, alpha=1e9)
    loose = medusa(llama, DEEP, acceptance="typical", epsilon=1e-30, alpha=1e-30)
    plain = AutoregressiveDecoder(Session(llama))
    for seed, prompt in enumerate(prompts[:6]):
        sampling = Sampling(temperature, seed=seed)
        wanted = decode(plain, prompt, sampling=sampling).token_ids
        found = decode(strict, prompt, sampling=sampling)
        assert found.token_ids == wanted
        assert set(found.accept_lengths) == {1}
        found = decode(loose, prompt, sampling=sampling)
        assert set(found.accept_lengths) == {5}
        # Behind the accepted path stands what the model itself chooses.
        text = torch.cat([prompt, torch.tensor(found.token_ids)])
        with torch.no_grad():
            chosen = llama(input_ids=text[None]).logits[0].argmax(-1).tolist()
        ends = range(5, LIMIT, 5)
        right = [chosen[len(prompt) + end - 1] == found.token_ids[end] for end in ends]
        assert all(right) or temperature


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
