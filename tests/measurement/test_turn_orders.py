"""Orders in which methods take turns."""

from collections import Counter
from itertools import pairwise

import pytest

from cllm_bench.measurement.turn_orders import balanced_orders


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_each_comes_at_each_place_and_behind_each_other_equally_often(count):
    orders = balanced_orders(count)
    assert all(sorted(order) == [*range(count)] for order in orders)
    times = len(orders) / count
    places = Counter((place, each) for order in orders for place, each in enumerate(order))
    assert set(places.values()) == {times}
    behind = Counter(pair for order in orders for pair in pairwise(order))
    assert len(behind) == count * (count - 1)
    assert set(behind.values()) <= {times}
