"""The executor: methods are bound again every few rounds, and freed before they are."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from cllm_bench.contracts import Sampling, Step
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.measurement import executor
from cllm_bench.measurement.executor import Executor
from cllm_bench.measurement.prompts import Prompt
from cllm_bench.measurement.turn_orders import balanced_orders
from cllm_bench_methods.ar import Autoregressive

PROMPT = torch.tensor([1])
STOP = 0


def decode(decoder, limit, clock):
    return generate(
        decoder,
        PROMPT,
        sampling=Sampling(),
        max_new_tokens=limit,
        stop_ids={STOP},
        clock=clock,
    )


@pytest.mark.parametrize(("captured", "expected"), [(0, [5, 10]), (1, [])])
def test_methods_are_bound_anew_every_few_rounds(tiny, captured, expected):
    """What is constant in a session's place in memory must vary within a run."""
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    bound = []

    class Method(Autoregressive):
        def bind(self, _):
            bound.append(super().bind(family))
            return bound[-1]

    class Other(Method):
        def bind(self, _):
            others.append(len(bound))
            return super().bind(_)

    others = []
    cells = [SimpleNamespace(label="ar", method=Method())]
    cells.append(SimpleNamespace(label="other", method=Other()))
    used = family.unloaded()
    used.captures.count = captured
    answering = Executor(SimpleNamespace(phases=(cells,), family=used), Clock())
    used.part("heads", 1, lambda: torch.zeros(1))  # of the first binding
    longest = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    pauses = [number for number in range(13) if answering.prepare("counting", longest)]
    assert pauses == expected
    assert len(bound) == 2 * (1 + len(pauses))
    assert bool(used.parts("heads")) == bool(captured)  # else memory would hold both
    # Freed memory is taken again in order: whoever is bound first must change.
    assert others == [1, 2, 5][: 1 + len(pauses)]
    assert len({id(decoder.session) for decoder in bound}) == len(bound)
    assert answering.ask(cells[0], longest).generation is not None
    assert not answering.prepare("another task", longest)  # its own warm-up


@pytest.mark.parametrize("watched", [True, False])
def test_what_was_bound_is_freed_before_it_is_bound_anew(tiny, watched, monkeypatch):
    """Also what holds itself, as a hook on a model does: memory must never hold both.

    Some kinds of things cannot be watched by a weak reference.
    """
    if not watched:
        monkeypatch.setattr(
            "cllm_bench.measurement.executor.weakref", SimpleNamespace(ref=lambda _: len(0))
        )
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    bound, alive = [], []

    class Method(Autoregressive):
        def bind(self, _):
            alive.append(sum(each() is not None for each in bound))
            decoder = super().bind(family)
            decoder.itself = decoder
            bound.append(weakref.ref(decoder))
            return decoder

    cell = SimpleNamespace(label="ar", method=Method())
    answering = Executor(SimpleNamespace(phases=([cell],), family=family), Clock())
    longest = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    thresholds = gc.get_threshold()
    gc.set_threshold(0)  # nothing is collected by chance
    try:
        assert sum(answering.prepare("counting", longest) for _ in range(8)) == 1
    finally:
        gc.set_threshold(*thresholds)
    assert alive == [0, 0]


def test_a_library_is_asked_for_the_whole_reply_whenever_it_begins_one():
    """It sizes its cache by the limit; a shorter one would leave the growing to the timed part."""

    class Library:
        limits, settled = [], []

        def answer(self, prompt_ids, sampling, *, max_new_tokens, stop_ids, settle):
            self.limits.append(max_new_tokens)
            self.settled.append(0)
            while True:
                self.settled[-1] += 1
                settle(Step((5,)))

    library = Library()
    cell = SimpleNamespace(label="library", method=SimpleNamespace(bind=lambda _: library))
    family = SimpleNamespace(
        runtime=Runtime("cpu", "float32"),
        stop_ids={STOP},
        take_passes=dict,
        captures=SimpleNamespace(count=0),
    )
    answering = Executor(SimpleNamespace(phases=([cell],), family=family), Clock())
    assert answering.ask(cell, Prompt(PROMPT, Sampling(), 9, None)).generation is not None
    assert library.settled == [2, 9]
    ended = answering.ask(cell, Prompt(PROMPT, Sampling(), 9, lambda reply: len(reply) == 1))
    assert ended.generation.token_ids == (5,)
    assert library.settled[2:] == [1, 1]
    answering.prepare("counting", Prompt(PROMPT, Sampling(), 80, None))
    assert set(library.settled[4:]) == {2, 32}
    assert set(library.limits) == {9, 80}


@pytest.mark.parametrize(("paces", "medians"), [((9, 5, 3, 3), 4), ((9, 5, 3, 2, 1), 5)])
def test_warm_up_ends_with_two_medians_that_agree_or_after_some(monkeypatch, paces, medians):
    """Of replies of which each third is an outlier."""
    monkeypatch.setattr(executor, "WARM_UP_RUNS", 3)
    monkeypatch.setattr(executor, "WARM_UP_MEDIANS", 5)
    cell = SimpleNamespace(label="ar", method=SimpleNamespace(bind=lambda _: None))
    warming = Executor(SimpleNamespace(phases=([cell],), family=None), Clock())
    runs = iter([pace for each in paces for pace in (each, 100.0, each)])
    monkeypatch.setattr(warming, "_pace", lambda *_: next(runs))
    warming.prepare("counting", Prompt(PROMPT, Sampling(), 80, None))
    assert len(list(runs)) == 3 * (len(paces) - medians)


def test_a_fixed_neighbour_favours_nobody():
    """In orders that are only rotated each method follows the same one nearly always.

    Here a pass takes a second, and the first one of a reply five more where the pass before it had
    other weights: the second of two equal methods finds its weights in the caches.
    """

    class Machine(Clock):
        now, weights = 0.0, ""

        def seconds(self):
            return self.now

        def decoder(self, weights):
            def decode(prompt_ids, sampling):
                while True:
                    self.now += 1.0 if weights == self.weights else 6.0
                    self.weights = weights
                    yield Step((5,))

            return SimpleNamespace(bind=lambda family: decode)

    machine = Machine()
    methods = {"ar": "target", "ar A/A": "target", "cllm": "cllm"}
    cells = [SimpleNamespace(label=m, method=machine.decoder(w)) for m, w in methods.items()]
    runtime = Runtime("cpu", "float32")
    family = SimpleNamespace(
        runtime=runtime, stop_ids={STOP}, take_passes=dict, captures=SimpleNamespace(count=0)
    )
    answering = Executor(SimpleNamespace(phases=(cells,), family=family), machine)
    naive, balanced, ours = (dict.fromkeys(methods, 0.0) for _ in range(3))
    orders = balanced_orders(len(cells))
    for number in range(60):
        turn = number % len(cells)
        order = [cells[place] for place in orders[number % len(orders)]]
        for each in order:
            found = answering.ask(each, Prompt(PROMPT, Sampling(), 9, None)).generation
            ours[each.label] += found.prefill_seconds + found.decode_seconds
        for asked, seconds in ((order, balanced), ([*cells[turn:], *cells[:turn]], naive)):
            for each in asked:
                found = decode(each.method.bind(family), 9, machine)
                seconds[each.label] += found.prefill_seconds + found.decode_seconds
    assert naive["ar"] / naive["ar A/A"] > 1.1
    assert balanced["ar"] / balanced["ar A/A"] == pytest.approx(1.0, abs=0.05)  # but both too slow
    assert balanced["ar"] > 1.1 * ours["ar"]
    assert ours == dict.fromkeys(methods, 60 * 9.0)


@pytest.mark.parametrize("flushes", [False, True])
def test_caches_are_emptied_between_the_untimed_beginning_and_the_reply(tiny, flushes):
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    log = []

    class Method(Autoregressive):
        def bind(self, _):
            decoder = super().bind(family)

            def logged(prompt_ids, sampling):
                log.append("reply")
                yield from decoder(prompt_ids, sampling)

            return logged

    specs = [SimpleNamespace(label="ar", method=Method())]
    plan = SimpleNamespace(phases=(specs,), family=family)
    flush = (lambda: log.append("flush")) if flushes else None
    executor = Executor(plan, Clock(), flush)
    prompt = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    assert executor.ask(plan.phases[0][0], prompt).generation is not None
    assert log == (["reply", "flush", "reply"] if flushes else ["reply", "reply"])
