"""How answers become batches: what is drawn, where it stands, and what one loss sums."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from packed_answers import (
    FAMILIES,
    PLAIN,
    SIZE,
    after,
    consistency,
    contexts,
    copy_of,
    gradient,
    texts,
    tiny,
)
from random_models import VOCABULARY

from cllm_bench_methods.cllm.batches import (
    Batch,
    answers_of,
    cllm_loss,
    make_batch,
    pack,
    run,
)
from cllm_bench_methods.cllm.objectives import Global, Local, Progressive
from cllm_bench_methods.cllm.packing import CLEAN, ar_loss, copy_rows, differs, logits_of
from cllm_bench_methods.cllm.states import Answer, Terms
from cllm_bench_methods.recipes.losses import divergence
from cllm_bench_methods.trajectories.collect import Record

PROMPT = tuple(range(500, 505))
ONLINE = replace(PLAIN, source="online")


def counting(length, size=SIZE):
    """An answer 0, 1, 2, … whose block b has the states y(j): j + 1 right tokens, then 900 + j."""

    def trajectory(fixed):
        noisy = [
            (*fixed[: right + 1], *[900 + right] * (len(fixed) - right - 1))
            for right in range(len(fixed) - 1)
        ]
        return (*noisy, fixed)

    tokens = tuple(range(length))
    blocks = [tokens[start : start + size] for start in range(0, length, size)]
    return Answer(PROMPT, tokens, tuple(map(trajectory, blocks)), None, 1)


def draws(states, answer, count=200):
    for seed in range(count):
        yield pack([answer], states, random.Random(seed))


def cut(packed, number=0):
    """The blocks of one copy of the first answer, where every block has a context of its own."""
    state = copy_of(packed, 0, number)
    return [(start, state[start:end]) for start, end, _ in contexts(packed, 0, number)]


def test_records_of_a_question_become_one_answer():
    def record(sample, block, states):
        return Record(sample, "sums", block, (8, 9), (), states, states[-1], True)

    records = [
        record("a", 0, ((1, 7), (1, 2))),
        record("a", 1, ((3, 8), (3, 4))),
        record("b", 0, ((5,),)),
    ]
    first, second = answers_of(records, 2, {("sums", "a"): (6,), ("sums", "b"): (7,)})
    assert first == Answer((8, 9), (1, 2, 3, 4), (records[0].states, records[1].states), (6,), 2)
    assert second == Answer((8, 9), (5,), (((5,),),), (7,), 2)
    assert first.length == 2 + 3 * 4
    assert answers_of(records, 1, None)[0].reference is None


@pytest.mark.parametrize("source", ["recorded", "online"])
def test_the_same_seed_draws_the_same_batch(source):
    states = replace(PLAIN, source=source, copies=4, iterations=2, shift=True)
    answers = texts(4)

    def drawn(seed):
        return vars(make_batch(answers, states, random.Random(seed)).packed)

    one, same, other = drawn(1), drawn(1), drawn(2)
    equal = [bool(torch.equal(one[n], same[n])) for n in one if torch.is_tensor(one[n])]
    assert len(equal) == 7
    assert all(equal)
    assert not torch.equal(one["ids"], other["ids"])


def test_a_copy_has_the_positions_of_its_answer():
    answers = texts(2)
    packed = pack(answers, replace(PLAIN, copies=2), random.Random(0))
    assert packed.copies == 2
    for row, answer in enumerate(answers):
        prompt, end = len(answer.prompt), len(answer.prompt) + len(answer.tokens)
        assert packed.ids[row, :end].tolist() == [*answer.prompt, *answer.tokens]
        assert packed.positions[row, :end].tolist() == [*range(end)]
        assert (packed.owner[row] == CLEAN).sum() == end
        for number in range(2):
            columns = packed.columns(number)
            held = packed.positions[row, columns][packed.owner[row, columns] == number]
            assert held.tolist() == [*range(prompt, end)]


def test_a_recorded_state_is_any_that_has_not_converged():
    answer, seen = counting(10), Counter()
    states = replace(PLAIN, copies=2)
    for packed in draws(states, answer):
        for number in range(2):
            assert [start for start, _ in cut(packed, number)] == [0, 4, 8]
            for block, (start, state) in enumerate(cut(packed, number)):
                seen[block, answer.states[block].index(tuple(state))] += 1
                assert state[0] == start
    assert sorted(seen) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert all(100 < seen[0, step] < 167 for step in range(3))
    chains = [cut(p, 0)[0] == cut(p, 1)[0] for p in draws(states, answer)]
    assert any(chains)
    assert not all(chains)


@pytest.mark.parametrize("copies", [3, 6])
def test_states_of_a_chain_are_consecutive(copies):
    answer, chains = counting(10), copies // 3
    for packed in draws(replace(PLAIN, objective=Local(), copies=copies, iterations=3), answer, 50):
        for chain in range(chains):
            steps = [cut(packed, chain + step * chains) for step in range(3)]
            for block, trajectory in enumerate(answer.states):
                found = [trajectory.index(tuple(step[block][1])) for step in steps]
                last = len(trajectory) - 1
                assert found[0] < last
                assert found == [min(found[0] + more, last) for more in range(3)]


@pytest.mark.parametrize("source", ["recorded", "online"])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_unconverged_shares_rise_along_a_window(source, window):
    size, blocks = 7, 9
    answer = counting(size * blocks, size)
    objective = Progressive(window=window)
    states = replace(PLAIN, block_size=size, source=source, objective=objective, window=window)
    phases = set()
    for packed in draws(states, answer, 30):
        state = copy_of(packed, 0, 0)
        begins = [begin for begin, _, _ in contexts(packed, 0, 0)]
        inner = begins[1] // size
        phase = (window - inner) % window
        phases.add(phase)
        assert begins[1:] == [*range(inner * size, blocks * size, window * size)]
        for block in range(blocks):
            turn = (block + phase) % window
            share = turn / (window - 1) if window > 1 else 1
            wrong = [i for i in range(size) if state[block * size + i] != block * size + i]
            assert wrong == [*range(size - round(share * (size - 1)), size)]
    assert phases == {*range(window)}


def test_blocks_begin_anywhere():
    answer = counting(11)
    firsts = set()
    for packed in draws(replace(ONLINE, shift=True), answer):
        starts = [start for start, _ in cut(packed)]
        firsts.add(starts[1])
        assert starts == [0, *range(starts[1], 11, SIZE)]
    assert firsts == {1, 2, 3, 4}
    assert all(cut(p)[1][0] == 4 for p in draws(ONLINE, answer, 20))
    recorded = replace(PLAIN, shift=True)
    assert all(cut(p)[1][0] == 4 for p in draws(recorded, answer, 20))


def test_guesses_are_drawn_from_what_is_known_at_the_head_of_a_block():
    answer, seen = counting(12), {0: set(), 4: set(), 8: set()}
    for packed in draws(ONLINE, answer):
        for start, state in cut(packed):
            assert state[0] == start
            seen[start].update(state[1:])
    assert seen == {start: {*PROMPT, *range(start + 1)} for start in seen}


@pytest.mark.parametrize(
    ("guess", "expected"), [("vocab", {*range(20)}), ("pad", {77}), ("last", {4})]
)
def test_guesses_come_from_where_inference_takes_them(guess, expected):
    states = replace(ONLINE, guess=guess, pad_id=77, vocabulary=20)
    drawn = [cut(packed)[1] for packed in draws(states, counting(8))]
    assert {token for _, state in drawn for token in state[1:]} == expected
    assert {(start, state[0]) for start, state in drawn} == {(4, 4)}


def test_all_states_of_a_chain_hold_the_same_block():
    states = replace(ONLINE, form="single", copies=3, iterations=3, shift=True)
    for packed in draws(states, counting(11), 30):
        held = [
            [(start, end) for start, end, used in contexts(packed, 0, number) if used]
            for number in range(3)
        ]
        assert len(held[0]) == 1
        assert held == [held[0]] * 3


def literal_cross_entropy(model, prompt, tokens):
    rows = after(model, (), prompt + tokens).log_softmax(-1)
    return -sum(rows[len(prompt) + i - 1, token] for i, token in enumerate(tokens)).item()


def test_a_loss_is_consistency_and_w_times_ar():
    model, states = tiny("llama"), replace(PLAIN, terms=Terms(10.0), objective=Global("jsd"))
    answers = texts(1)
    batch = make_batch(answers, states, random.Random(0))
    assert batch.references is None
    loss = cllm_loss(model, batch, states)
    logits = logits_of(model, batch.packed)
    apart = consistency(logits, batch.packed, states).item()
    ar = ar_loss(logits, batch.packed).item()
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {"consistency_loss": apart, "ar_loss": ar}
    )
    assert not any(part.requires_grad for part in loss.parts.values())
    assert loss.count == sum(len(answer.tokens) for answer in answers)
    assert loss.total.item() == pytest.approx(apart + 10 * ar)


def test_local_consistency_pairs_a_state_with_the_next_of_its_chain():
    model = tiny("llama")
    states = replace(PLAIN, objective=Local(), copies=4, iterations=2)
    batch = make_batch(texts(4), states, random.Random(0))
    loss = cllm_loss(model, batch, states)
    logits, expected = logits_of(model, batch.packed), 0.0
    for student, teacher in ((0, 2), (1, 3)):
        counted = differs(batch.packed, student)
        rows = [copy_rows(logits, batch.packed, each)[counted] for each in (teacher, student)]
        expected += divergence(*rows, "forward_kl").sum().item() / 2
    assert loss.parts["consistency_loss"].item() == pytest.approx(expected)


def test_a_reference_weighs_as_the_answer_that_it_stands_for():
    model, rng = tiny("llama"), random.Random(5)
    answers = [
        answer._replace(reference=tuple(rng.randrange(VOCABULARY) for _ in range(length)))
        for answer, length in zip(texts(1), (3, 12, 1, 2, 6), strict=True)
    ]
    batch = make_batch(answers, PLAIN, random.Random(0))
    assert batch.references["weights"].sum(1).tolist() == pytest.approx(
        [len(answer.tokens) for answer in answers]
    )
    expected = sum(
        literal_cross_entropy(model, a.prompt, a.reference) * len(a.tokens) / len(a.reference)
        for a in answers
    )
    loss = cllm_loss(model, batch, PLAIN)
    assert loss.parts["ar_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.count == sum(len(answer.tokens) for answer in answers)
    plain = cllm_loss(model, Batch(batch.packed, None), PLAIN)
    parts = [each.parts["consistency_loss"].item() for each in (loss, plain)]
    assert parts[0] == parts[1]


def test_a_batch_gives_the_same_loss_again():
    model = tiny("llama")
    states = replace(ONLINE, copies=3, iterations=3)
    batch = make_batch(texts(3), states, random.Random(0))
    losses = [cllm_loss(model, batch, states).total.item() for _ in range(2)]
    assert losses[0] == losses[1]


def literal_step(model, answer, state, held):
    """One Jacobi iteration of every context: its head stays, the rest is predicted."""
    found = list(state)
    with torch.no_grad():
        for start, end, _ in held:
            prefix = answer.prompt + answer.tokens[:start]
            predicted = after(model, prefix, state[start:end]).argmax(-1).tolist()
            found[start:end] = [state[start], *predicted[:-1]]
    return found


def settled_answer(model, prompt, length):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(after(model, (), ids)[-1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {"shift": True},
        {"objective": Progressive(window=3), "window": 3},
        {"form": "single", "shift": True},
    ],
    ids=["packed", "progressive", "single"],
)
def test_states_move_on_as_jacobi_decoding_does(family, changes):
    model = tiny(family)
    steps = 3 * SIZE if "window" in changes else SIZE  # that many tokens settle in one less
    states = replace(ONLINE, copies=2 * steps, iterations=steps, **changes)
    answers = [
        each._replace(tokens=settled_answer(model, each.prompt, len(each.tokens)))
        for each in texts(2 * steps)
    ]
    packed = pack(answers, states, random.Random(1))
    fresh = packed.ids.clone()
    _, packed = run(model, packed, states)
    given = packed.clean + 2 * packed.span
    assert torch.equal(packed.ids[:, :given], fresh[:, :given])
    moved = 0
    for row, answer in enumerate(answers):
        for chain in range(2):
            held = [each for each in contexts(packed, row, chain) if each[2]]
            places = [place for start, end, _ in held for place in range(start, end)]
            state = copy_of(packed, row, chain)
            for step in range(1, steps):
                expected, before = literal_step(model, answer, state, held), state
                state = copy_of(packed, row, chain + 2 * step)
                assert [state[i] for i in places] == [expected[i] for i in places]
                moved += state != before
            assert [state[i] for i in places] == [answer.tokens[i] for i in places]
    assert moved


@pytest.mark.parametrize("form", ["packed", "single"])
@pytest.mark.parametrize("source", ["recorded", "online"])
def test_bf16_arithmetic_stays_finite(form, source):
    model = tiny("llama")
    objective = Global("jsd")
    states = replace(PLAIN, form=form, source=source, copies=2, iterations=2, objective=objective)
    packed = pack(texts(2), states, random.Random(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cllm_loss(model, Batch(packed, None), states)
    assert loss.total.dtype == torch.float32
    assert torch.isfinite(loss.total)
    assert torch.isfinite(gradient(loss.total, model)).all()


def test_states_of_sliding_windows_keep_fresh_guesses_behind_a_random_place():
    """The head stays, a part is predicted, and the rest is guessed, as a sliding window has it."""
    model, pad = tiny("llama"), VOCABULARY - 1
    states = replace(ONLINE, refill="sliding", guess="pad", pad_id=pad, copies=4, iterations=2)
    seen = set()
    for seed in range(20):
        answers = texts(4)
        guessed = pack(answers, states, random.Random(seed))
        _, packed = run(model, guessed, states)
        for row, answer in enumerate(answers):
            for chain in range(2):
                held = contexts(packed, row, chain)
                before = copy_of(guessed, row, chain)
                assert copy_of(packed, row, chain) == before  # a chain begins with guesses alone
                predicted = literal_step(model, answer, before, held)
                state = copy_of(packed, row, chain + 2)
                for start, end, _ in held:
                    own = state[start:end]
                    matches = [
                        cut
                        for cut in range(1, end - start + 1)
                        if own == [*predicted[start : start + cut], *[pad] * (end - start - cut)]
                    ]
                    assert matches
                    if end - start == SIZE:
                        seen.update(matches[:1])
    assert seen == {*range(1, SIZE + 1)}


def test_blocks_that_refill_whole_keep_no_guess():
    states = replace(ONLINE, copies=2, iterations=2)
    assert not any(packed.fresh.any() for packed in draws(states, counting(11), 20))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_chains_begin_some_iterations_ahead(cached, ahead):
    model = tiny("llama")
    states = replace(ONLINE, copies=2, iterations=2, cached=cached)
    answers = texts(2)
    guessed = pack(answers, states, random.Random(0))
    logits, packed = run(model, guessed, states, ahead)
    assert logits.requires_grad
    for row, answer in enumerate(answers):
        held, state = contexts(packed, row, 0), copy_of(guessed, row, 0)
        for _ in range(ahead):
            state = literal_step(model, answer, state, held)
        assert copy_of(packed, row, 0) == state
        assert copy_of(packed, row, 1) == literal_step(model, answer, state, held)


@pytest.mark.parametrize("cached", [True, False])
def test_weights_learn_in_bf16_behind_passes_without_gradients(cached):
    """Autocast keeps weights that it has cast: those cast without gradients must be cast anew."""
    model = tiny("llama")
    states = replace(ONLINE, copies=2, iterations=2, cached=cached)
    batch = make_batch(texts(2), states, random.Random(0))._replace(ahead=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cllm_loss(model, batch, states)
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss.total, weights, allow_unused=True)
    assert [name for name, each in zip(names, found, strict=True) if each is None] == []
