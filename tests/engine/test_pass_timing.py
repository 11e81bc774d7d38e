"""Passes timed alone, at their context and behind the weights that came before them."""

import torch
from families import SMALL

from cllm_bench.contracts import Sampling
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.pass_timing import TURN, WARM_UP, time_passes, time_prefill
from cllm_bench.engine.passes import Shape, parse_shape
from cllm_bench.engine.runtime import Runtime
from cllm_bench_methods.medusa.method import Medusa


def test_passes_are_timed_at_their_context(tiny):
    """A clock that counts its readings: each pass is read around once, and rolled back."""
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    shapes = [Shape("target", 1, False), Shape("target", 4, False), Shape("target", 4, True)]
    found = time_passes(family, shapes, 12, Clock(), turns=2)
    assert set(found) == set(shapes)
    assert all(seconds > 0 for seconds in found.values())
    passes = family.take_passes()
    assert passes == {str(shape): 2 * (WARM_UP + TURN) for shape in shapes}
    assert family.take_passes() == {}
    assert time_prefill(family, "target", 8, Clock()) > 0


def test_passes_behind_other_weights_are_timed_behind_them(tiny):
    roles = {"draft": find_family(str(tiny[0])).checkpoint("target").location}
    runtime = Runtime("cpu", "float32", threads=1).resolve()
    family = find_family(str(tiny[0]), roles=roles, runtime=runtime)
    calls = []
    family.part("heads", 3, lambda: calls.append(1) or torch.zeros(4))
    checking, drafting = Shape("target", 4, False, "draft"), Shape("draft", 1, False, "target")
    guessing = Shape("heads", 3, False, "target")
    known = [checking, guessing]
    unknown = [Shape("heads", 2, False), Shape("target", 2, False, "nobody")]
    assert set(time_passes(family, [*known, *unknown], 12, Clock(), turns=1)) == set(known)
    count = WARM_UP + TURN
    assert len(calls) == count  # of which none counts
    passes = family.take_passes()
    # The very first pass of all may come behind the prefill of its own weights.
    behind = [str(checking), str(drafting)]
    assert sum(passes.get(each, 0) for each in behind) >= 2 * count - 2
    assert sum(passes.values()) == 3 * count


def test_heads_count_as_passes_of_their_own():
    family = find_family(str(SMALL), runtime=Runtime("cpu", "float32", threads=1).resolve())
    steps = Medusa(tree="0;0.0;1").bind(family)(torch.arange(5), Sampling())
    for _ in range(4):
        next(steps)
    passes = {"2 medusa heads after target": 3, "4t target after medusa heads": 3}
    assert family.take_passes() == passes
    shapes = [parse_shape(text) for text in passes]
    assert set(time_passes(family, shapes, 12, Clock(), turns=1)) == set(shapes)
