from dataclasses import dataclass

import pytest

from cllm_bench.contracts import Sampling
from cllm_bench.errors import UserError
from cllm_bench.measurement.method_specs import _exactness


@dataclass(frozen=True)
class Claims:
    exactness: str = "exact"
    sampled: str | None = None


def test_a_claim_that_no_reader_takes_is_refused_before_the_run():
    assert _exactness("mine", Claims("lossy"), Sampling()) == "lossy"
    assert _exactness("mine", Claims(sampled="distribution"), Sampling(0.7)) == "distribution"
    for claims, sampling in ((Claims("nearly"), Sampling()), (Claims(sampled="x"), Sampling(0.7))):
        with pytest.raises(UserError, match="not one of exact, distribution, lossy"):
            _exactness("mine", claims, sampling)
    with pytest.raises(UserError, match="decodes greedily only"):
        _exactness("mine", Claims(), Sampling(0.7))
