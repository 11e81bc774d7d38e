"""In which order methods take turns."""

from __future__ import annotations


def balanced_orders(count: int) -> list[list[int]]:
    """Return orders of things: each comes equally often at each place and behind each other one.

    In orders that are only rotated, each but the first would always come behind the same one. Drawn
    for four:

        0 1 3 2
        1 2 0 3
        2 3 1 0
        3 0 2 1

    Source: Williams 1949, "Experimental designs balanced for the estimation of residual effects of
    treatments". An odd number takes twice as many orders, the second half reversed.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    orders = [[(each + first) % count for each in zigzag] for first in range(count)]
    return orders if count % 2 == 0 else [*orders, *(order[::-1] for order in orders)]
