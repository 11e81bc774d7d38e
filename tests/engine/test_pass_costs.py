"""What the host does for a captured pass: a ceiling for each method, so that nothing creeps in."""

import itertools
from collections import Counter

import pytest
from method_decoders import decoders_of, models
from recorded_captures import Costs

from cllm_bench.contracts import Sampling
from cllm_bench.engine.cuda_graphs import GraphSession

PASSES = 20
# Operations, copies between host and device, and waits for the device, for a pass at most.
CEILINGS = {
    "ar": (2, 2, 1),
    "jacobi": (2, 2, 1),
    "sliding": (2, 2, 1),
    "prompt_lookup": (2, 2, 1),
    "lookahead": (3, 2, 1),  # where a guess is accepted, its rows are moved
    "medusa": (3, 2, 1),
    "speculative": (7, 3, 1),
}


@pytest.mark.parametrize("name", CEILINGS)
def test_a_greedy_pass_stays_below_its_ceiling(prompts, monkeypatch, name):
    costs = Costs(monkeypatch)
    captures = costs.captures
    decoder = decoders_of(*models(), lambda model: GraphSession(model, captures))[name]
    for _ in range(2):  # the first time everything is captured
        steps = decoder(prompts[9], Sampling())
        next(steps)
        with costs.counted():
            assert len(list(itertools.islice(steps, PASSES))) == PASSES
    operations, copies, waits = (each * PASSES for each in CEILINGS[name])
    assert len(costs.operations) <= operations, Counter(costs.operations)
    assert (costs.copies, costs.waits) == (copies, waits)
