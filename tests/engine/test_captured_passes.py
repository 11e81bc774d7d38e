"""Captured passes, their operations repeated in the same memory: the same results as run anew."""

import random
from functools import partial

import pytest
import torch
from greedy_decoding import decode
from method_decoders import decoders_of, models
from random_models import tiny_model
from recorded_captures import SharedPool, recorded

from cllm_bench.contracts import Sampling
from cllm_bench.engine.cuda_graphs import Captures, GraphSession
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.passes import PassLog
from cllm_bench.engine.session import Session


def sessions_of(model, captures, count=1, capacity=8):
    return [GraphSession(model, captures, capacity=capacity) for _ in range(count)]


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def random_tree(generator, rows):
    """Depths and mask of a tree whose rows come behind their parents."""
    depth, mask = torch.zeros(rows, dtype=torch.long), torch.eye(rows, dtype=torch.bool)
    for row in range(1, rows):
        parent = generator.randrange(row)
        depth[row] = depth[parent] + 1
        mask[row] |= mask[parent]
    return depth, mask


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_chains_trees_rollback_and_growth_in_two_sessions(kind, seed):
    """At random, over the growth of cache and window; each session beside one without captures."""
    generator = random.Random(seed)
    model = fuse(tiny_model(kind, seed=seed))
    captures = Captures(SharedPool())
    pairs = [(each, Session(model)) for each in sessions_of(model, captures, 2)]
    for pair in pairs:
        for session in pair:
            session.prefill(torch.arange(3 + seed))
    for _ in range(250):
        pair = generator.choice(pairs)
        length, room = pair[0].length, pair[0].room
        if length > 300 or room < 20:
            back = generator.randrange(3, 40)
            for session in pair:
                session.length = back
                session.keep(0)
            continue
        rows = generator.choice((1, 2, 7, 16))
        ids = [generator.randrange(60) for _ in range(rows)]
        tree = random_tree(generator, rows) if generator.random() < 0.4 else (None, None)
        given = torch.tensor(ids) if generator.random() < 0.3 else ids
        hidden = generator.random() < 0.3
        found, expected = (
            session.forward(given, depth=tree[0], mask=tree[1], hidden=hidden) for session in pair
        )
        assert found.tokens() == expected.tokens() == found.choices.tolist()
        close(found.logits, expected.logits)
        if hidden:
            close(found.hidden, expected.hidden)
        kept = generator.randrange(rows + 1)
        if tree[0] is not None and kept:
            kept = torch.tensor(sorted(generator.sample(range(rows), kept)))
        for session in pair:
            session.keep(kept)
        assert pair[0].length == pair[1].length
    assert captures.replays > captures.count + 100  # most launches repeat what is there


def test_all_methods_give_the_same_tokens_in_turn(prompts):
    """All on one set of captures: nothing may rely on what another's launch has left."""
    three, captures = models(), Captures(SharedPool())
    plain = decoders_of(*three, Session)
    own = decoders_of(*three, lambda model: GraphSession(model, captures, capacity=8))
    for prompt in prompts[:5]:
        expected = decode(plain["ar"], prompt, limit=40)
        for name, decoder in own.items():
            found = decode(decoder, prompt, limit=40)
            assert found.token_ids == expected.token_ids, name
            same = decode(plain[name], prompt, limit=40)
            assert found.accept_lengths == same.accept_lengths, name


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_interleaved_replies(prompts, temperature):
    """Two replies of every method, pass by pass in turn, on sessions of their own."""
    three, captures = models(), Captures(SharedPool())
    sampling = Sampling(temperature, 1.0, 3)

    def graph(model):
        return GraphSession(model, captures, capacity=8)

    both = [decoders_of(*three, graph) for _ in range(2)]
    plain = decoders_of(*three, Session)
    for name in plain:
        running = [
            own[name](prompt, sampling) for own, prompt in zip(both, prompts[2:4], strict=True)
        ]
        found = [[next(each) for each in running] for _ in range(12)]
        for index, prompt in enumerate(prompts[2:4]):
            expected = plain[name](prompt, sampling)
            assert [next(expected) for _ in found] == [steps[index] for steps in found], name


def test_passes_are_counted_as_without_captures(prompts):
    model, draft, heads = models()

    def counts(new_session):
        log = PassLog()

        def session(own):
            return new_session(own, role="draft" if own is draft else "target", passes=log)

        decoders = decoders_of(model, draft, heads, session)
        for name in ("speculative", "medusa", "lookahead"):
            decode(decoders[name], prompts[0], limit=40)
            yield log.take()

    expected = list(counts(Session))
    assert list(counts(partial(GraphSession, captures=Captures(SharedPool())))) == expected
    assert "1 draft after target" in expected[0]


def test_a_recording_repeats_what_the_host_decided():
    """Else these tests would show nothing."""
    number, numbers, results = [1], torch.tensor([1.0]), torch.zeros(1)
    replay = recorded(lambda: results.copy_(numbers * 2 + number[0]))
    number[0] = 5
    numbers.fill_(10.0)
    replay()
    assert results.item() == 21.0


def test_a_launch_spoils_what_another_has_left():
    pool, numbers, left = SharedPool(), torch.tensor([1.0]), []
    one = pool(lambda: left.append(numbers + 1))
    other = pool(lambda: numbers * 2)
    one()
    assert left[0].item() == 2.0
    other()
    assert left[0].isnan()
    assert numbers.item() == 1.0
