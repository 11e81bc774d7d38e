"""Plain values as bytes, between a program and the judging process."""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction

import pytest

from cllm_bench.sandbox.values import pack, unpack

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs Linux or macOS")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**53, -(2**200), 1.5, float("inf"), 1 + 2j, "", "é\ud800\0"),
        *(b"\x00\xff", [], [1, [2.0, "x"]], (), (1, (2,)), {1, 2}, frozenset({"a"}), {}),
        *({"a": [1], 2: (3,), (4, 5): None}, Fraction(1, 3), Decimal("1.50")),
    ],
)
def test_values_travel(value):
    found = unpack(pack(value))
    assert (found, type(found)) == (value, type(value))


def test_subclasses_travel_as_what_they_extend():
    class Name(str):
        __slots__ = ()

        def __str__(self):
            return "else"

    found = unpack(pack([Name("x"), bytearray(b"y")]))
    assert found == ["x", b"y"]
    assert type(found[0]) is str


@pytest.mark.parametrize("value", [object(), range(3), iter([]), len, [object()], type])
def test_what_has_a_behaviour_of_its_own_does_not_travel(value):
    with pytest.raises(TypeError, match="no plain value"):
        pack(value)


@pytest.mark.parametrize("data", [b'{"eval": "1"}', b'{"int": "0x1", "dict": []}', b"{}", b"x"])
def test_other_bytes_are_no_value(data):
    with pytest.raises(ValueError, match=r"."):
        unpack(data)
