"""Medusa is exact whatever its heads say and whatever its tree."""

import random

import pytest
import torch
from greedy_decoding import expected_tokens, share
from medusa_decoders import DEEP, GREEDY, LIMIT, decode, medusa
from random_models import VOCABULARY, tiny_model

from cllm_bench.contracts import Sampling
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.medusa.method import Medusa

CHAIN = "0.0.0.0"
WIDE = "0;1;2;3;4;5"
TREES = pytest.mark.parametrize("text", [CHAIN, WIDE, DEEP], ids=["chain", "wide", "deep"])


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


@pytest.fixture(scope="module")
def expected(greedy):
    """Some tokens more than are asked for: heads may look beyond the limit."""
    return [tokens[: LIMIT + 8] for tokens in greedy]


@TREES
def test_random_heads_change_no_token(model, prompts, expected, text):
    decoder = medusa(model, text)
    guesses = len(decoder.tree.nodes)
    accepted = 0
    for prompt, tokens in share(guesses, 2, prompts, expected):
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
    for seed, (prompt,) in enumerate(share(len(decoder.tree.nodes), 7, prompts)):
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
