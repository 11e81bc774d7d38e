"""The spread of rounding, by arithmetic, on tiny models and on a trained one in bfloat16."""

import random

import pytest
import torch
from families import SMALL
from random_models import tiny_model

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.exactness import verdict
from cllm_bench.decoding.loop import generate
from cllm_bench.decoding.rounding import BEYOND, Reply, RoundingMeter, flip_rate, tolerance
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench_methods.ar import Autoregressive, AutoregressiveDecoder
from cllm_bench_methods.jacobi import Jacobi
from cllm_bench_methods.lookahead import Lookahead

GREEDY = Sampling()
LIMIT = 20


def decoded(decoder, prompt, limit, sampling=GREEDY, stop_ids=()):
    return generate(
        decoder, prompt, sampling=sampling, max_new_tokens=limit, stop_ids=stop_ids, clock=Clock()
    ).token_ids


def metered(session, decoder, prompts, limit, sampling=GREEDY, stop_ids=()):
    """Meter the decoder's own replies; return the meter and the replies."""
    meter = RoundingMeter(session, sampling.temperature)
    replies = [decoded(decoder, prompt, limit, sampling, stop_ids) for prompt in prompts]
    for prompt, tokens in zip(prompts, replies, strict=True):
        meter.add(Reply(prompt, tokens, sampling))
    return meter, replies


def test_the_tolerance_leaves_one_turned_choice_in_a_thousand_beyond_it():
    changes = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).abs()
    found = tolerance(changes)

    def share(limit):
        return float((changes - limit).clamp(min=0).mean() / changes.mean())

    assert share(found) <= BEYOND < share(0.99 * found)
    # Choices that such changes turn: a margin of any size is as frequent, and turns below |change|.
    generator = torch.Generator().manual_seed(1)
    margins = 5 * torch.rand(20_000, generator=generator)
    turned = margins[margins < changes]
    assert len(turned) > 2000
    assert (turned > found).double().mean() < 3 * BEYOND


def test_where_nothing_changes_only_equal_logits_tie():
    assert tolerance(torch.zeros(8)) == 0
    assert flip_rate(torch.zeros(8), torch.tensor([0.0, 1.0])) == 0


@pytest.mark.parametrize("step", [0.0, 0.0625])
def test_flips_are_those_that_a_second_rounding_turns(step):
    """Logits of two tokens, rounded twice in different ways, on a grid or on none."""
    generator = torch.Generator().manual_seed(2)
    exact = torch.randn(40_000, 2, generator=generator).double()

    def rounded():
        noisy = exact + 0.05 * torch.randn(exact.shape, generator=generator).double()
        return (noisy / step).round() * step if step else noisy

    one, other = rounded(), rounded()
    margin = one.amax(-1) - one.amin(-1)
    lead = one.argmax(-1, keepdim=True)
    after = other.gather(-1, lead) - other.gather(-1, 1 - lead)
    flipped = (one.argmax(-1) != other.argmax(-1)).double().mean()
    assert flipped > 0.015
    found = flip_rate((after[:, 0] - margin).abs(), margin)
    assert found == pytest.approx(float(flipped), rel=0.15)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 0.9, 3)])
def test_in_float32_passes_of_every_shape_say_the_same(model, prompts, sampling):
    """So the comb of the tree pass sees what it is to see, too."""
    decoder = AutoregressiveDecoder(Session(model))
    meter, replies = metered(Session(model), decoder, prompts[10:12], 20, sampling)
    assert (meter.replies, meter.positions) == (2, sum(map(len, replies)) - 2)
    spread = meter.spread()
    assert spread.tolerance < 1e-3
    assert set(spread.flips) == {"2", "4", "8", "16", "32", "16t"}
    assert max(spread.flips.values()) < 1e-3
    assert spread.within < 0.05


def test_the_tolerance_grows_with_the_depth(prompts):
    """Four roundings of the largest logit are the same at every depth, and too few at 16 layers."""
    found = {}
    for layers in (2, 16):
        deep = tiny_model("llama", num_hidden_layers=layers, initializer_range=0.3)
        deep = deep.to(torch.bfloat16)
        decoder = AutoregressiveDecoder(Session(deep))
        meter, _ = metered(Session(deep), decoder, prompts[8:11], 20)
        found[layers] = meter.spread().tolerance
    assert found[16] > 1.5 * found[2] > 0


def test_without_a_second_token_there_is_no_spread(llama, prompts):
    meter = RoundingMeter(Session(llama))
    meter.add(Reply(prompts[3], (5,), GREEDY))
    with pytest.raises(ValueError, match="no reply has a token to compare"):
        meter.spread()


@pytest.fixture(scope="module")
def trained():
    """A family in bfloat16 on prompts without sense, where it is seldom sure; and its spread."""
    family = find_family(str(SMALL), runtime=Runtime("cpu", "bfloat16", threads=1))
    generator = torch.Generator().manual_seed(4)
    size = family.vocabulary("target")
    asked = [torch.randint(20, size, (12,), generator=generator) for _ in range(20)]
    decoder = Autoregressive().bind(family)
    meter, replies = metered(family.session("target"), decoder, asked[:6], LIMIT)
    replies += [decoded(decoder, prompt, LIMIT) for prompt in asked[6:]]
    return family, asked, replies, meter.spread()


def test_planted_tokens_are_mismatches_where_the_spread_separates_them(trained):
    family, asked, replies, spread = trained
    assert 0.03 < spread.tolerance < 0.4
    assert spread.within < 0.13
    rng, session = random.Random(0), family.session("target")
    apart = mismatches = forgiven = 0
    for prompt, tokens in zip(asked[:12], replies, strict=False):
        session.prefill(prompt)
        places = set(rng.sample(range(1, len(tokens)), 8))
        for place, token in enumerate(tokens[:-1], 1):
            logits = session.forward([token]).logits[0].float()
            session.keep(1)
            if place not in places:
                continue
            second = int(logits.topk(2).indices[1])
            for planted in (second, rng.randrange(len(logits))):
                if planted == tokens[place]:
                    continue
                wrong = [*tokens[:place], planted, *tokens[place + 1 :]]
                found = verdict(
                    wrong,
                    tokens,
                    prompt,
                    GREEDY,
                    lambda: family.session("target"),
                    spread.tolerance,
                )
                assert found.first_difference == place
                if float(logits[tokens[place]] - logits[planted]) > spread.tolerance:
                    apart += 1
                    mismatches += found.kind == "mismatch"
                else:
                    forgiven += found.kind == "tie"
    assert apart > 100
    assert mismatches >= 0.99 * apart
    assert forgiven > 0  # some second choices are as good


def test_replies_of_exact_methods_part_at_ties_only(trained):
    family, asked, replies, spread = trained
    kinds = {}
    for method in (Jacobi(), Lookahead()):
        decoder = method.bind(family)
        for prompt, expected in zip(asked, replies, strict=True):
            tokens = decoded(decoder, prompt, LIMIT)
            found = verdict(
                tokens, expected, prompt, GREEDY, lambda: family.session("target"), spread.tolerance
            )
            kinds.setdefault(type(method).__name__, []).append(found.kind)
    for found in kinds.values():
        assert "mismatch" not in found
        assert found.count("exact") >= 10
    assert any("tie" in found for found in kinds.values())
