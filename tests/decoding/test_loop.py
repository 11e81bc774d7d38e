import itertools

import pytest
import torch
from synthetic import cell, manifest, row

from cllm_bench.contracts import Sampling, Step
from cllm_bench.decoding.loop import generate
from cllm_bench.decoding.stop_strings import StopStrings, cut
from cllm_bench.engine.clock import Clock
from cllm_bench.report.summary import summarise
from cllm_bench_methods.target.from_scratch import train_tokenizer

PROMPT = torch.tensor([1])


class FakeClock(Clock):
    """Advances only when the decoder works."""

    now = 0.0

    def seconds(self):
        return self.now


def scripted(steps, clock=None, cost=1.0):
    def decoder(prompt_ids, sampling):
        for step in itertools.chain(steps, itertools.repeat(Step((9,), 2))):
            if clock is not None:
                clock.now += cost
            yield step

    return decoder


def run(decoder, limit=10, stop_ids=(), clock=None, ends=None):
    return generate(
        decoder,
        PROMPT,
        sampling=Sampling(),
        max_new_tokens=limit,
        stop_ids=stop_ids,
        clock=clock or Clock(),
        ends=ends,
    )


def test_tokens_after_the_stop_token_are_not_counted():
    found = run(scripted([Step((1,)), Step((2, 3, 4), 5)]), stop_ids={3})
    assert found.token_ids == (1, 2, 3)
    assert found.accept_lengths == (3,)
    assert found.drafted == (5,)
    assert found.finish == "stop"


def test_the_limit_cuts_inside_a_step():
    found = run(scripted([Step((1,)), Step((2, 3, 4))]), limit=3)
    assert found.token_ids == (1, 2, 3)
    assert found.finish == "length"


def test_a_stop_token_at_the_limit_is_a_stop():
    assert run(scripted([Step((1,)), Step((2, 3))]), limit=3, stop_ids={3}).finish == "stop"


def test_the_first_token_may_end_it():
    found = run(scripted([Step((1,))]), stop_ids={1})
    assert found.token_ids == (1,)
    assert found.accept_lengths == ()
    assert found.decode_seconds == pytest.approx(0.0, abs=1e-3)


def test_prefill_and_decode_are_timed_apart():
    clock = FakeClock()
    found = run(scripted([Step((1,))], clock), limit=5, clock=clock)
    assert found.prefill_seconds == 1.0
    assert found.decode_seconds == 4.0


def test_no_pass_is_made_beyond_the_end():
    made = []

    def decoder(prompt_ids, sampling):
        for token in itertools.count():
            made.append(token)
            yield Step((token,))

    run(decoder, limit=4)
    assert made == [0, 1, 2, 3]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        run(scripted([]), limit=0)


def test_the_clock_waits_for_the_device():
    waited = []
    clock = Clock(lambda: waited.append(None))
    run(scripted([Step((1,))]), limit=3, clock=clock)
    assert len(waited) == 3


class Library:
    """A loop of another library, which settles whole steps and ends by itself."""

    def __init__(self, steps, clock):
        self.steps, self.clock = steps, clock

    def answer(self, prompt_ids, sampling, *, max_new_tokens, stop_ids, settle):
        for step in self.steps:
            self.clock.now += 2.0
            settle(step)


def test_a_library_s_loop_is_counted_and_timed_like_ours():
    clock = FakeClock()
    steps = [Step((0, 1), 4), Step((2, 3), 4), Step((4, 5, 6), 4)]
    found = run(Library(steps, clock), limit=6, clock=clock)
    assert found.token_ids == (0, 1, 2, 3, 4, 5)
    assert found.prefill_tokens == 2
    assert (found.accept_lengths, found.drafted) == ((2, 3), (4, 4))
    assert (found.prefill_seconds, found.decode_seconds) == (2.0, 4.0)
    assert found.finish == "length"


def test_a_library_s_loop_that_ends_early_is_no_result():
    clock = FakeClock()
    with pytest.raises(ValueError, match="ended before a stop token or the limit"):
        run(Library([Step((1,)), Step((2,))], clock), clock=clock)


def test_a_reply_ends_where_its_text_does():
    found = run(scripted([Step((1,)), Step((2, 3, 4))]), ends=lambda tokens: tokens[-2:] == [2, 3])
    assert found.token_ids == (1, 2, 3)
    assert found.finish == "stop"


@pytest.mark.parametrize("strings", [("\n\n",), ("seven",), (" two", "\nfour f"), ("ö",), ("x",)])
def test_stop_strings_end_with_the_token_that_completes_them(strings):
    """At every token: what looking at the whole text would say."""
    tokenizer = train_tokenizer(["one two three four five six seven öäü\n\nfour five"] * 4, 300)
    ends = StopStrings(strings, tokenizer)
    ids = tokenizer("three four\nfour five öne two\n\n seven xü").input_ids
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count])
        whole = any(string in text for string in strings)
        assert ends(ids[:count]) is whole
        if whole:
            assert cut(text, strings) == text[: min(text.find(s) for s in strings if s in text)]
            break


def by_method(rows, **changes):
    used = manifest(cell("ar"), cell("block"), **changes)
    return {each.method: each for each in summarise(used, rows)}


def test_tokens_past_the_end_are_no_speed():
    """Counted from its own log, a block method that runs past the stop token looks twice as fast.

    Both methods take a second a pass, and the reply has nine tokens.
    """

    def decoder_of(per_pass, log):
        def decoder(prompt_ids, sampling):
            reply = [*range(1, 9), 0, *range(50, 90)]
            yield Step((reply[0],))
            for start in range(1, len(reply), per_pass):
                fake.now += 1.0
                log.append(per_pass)
                yield Step(tuple(reply[start : start + per_pass]))

        return decoder

    rows, logged = [], {}
    for name, per_pass in (("ar", 1), ("block", 16)):
        fake, log = FakeClock(), []
        found = run(decoder_of(per_pass, log), 40, {0}, fake)
        logged[name] = sum(log) / found.decode_seconds
        rows.append(
            row(
                name,
                "q0",
                tokens=len(found.token_ids),
                decode_seconds=found.decode_seconds,
                accept_lengths=found.accept_lengths,
                drafted=found.drafted,
            )
        )
    assert logged["block"] / logged["ar"] == 16.0  # the naive figure
    found = by_method(rows)["block"]
    assert found.speedup == pytest.approx(8.0)  # eight tokens in one pass
    assert found.tokens_per_pass == 8.0
    assert found.mean_accept_length == 16.0  # what the method did is told apart
