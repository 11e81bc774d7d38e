"""Plain values as bytes, between a program and its judge, who must not trust what comes.

Only values travel, never objects with a behaviour of their own: a result whose `__eq__` says yes to
everything cannot be sent. A subclass travels as what it extends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

_EXACT_INTEGER = 1 << 53


def pack(value: object) -> bytes:
    """Return a value as it travels.

    Raises:
        TypeError: It is not plain, or holds something that is not.
        RecursionError: It holds itself, or is nested too deeply.
    """
    return json.dumps(_encoded(value)).encode("ascii")


def unpack(data: bytes) -> Any:
    """Return the value that `pack` was given.

    Raises:
        ValueError, ArithmeticError: These bytes are none of `pack`.
        TypeError: They say that something is in a set, or a key, that cannot be there.
        RecursionError: They are nested too deeply.
    """
    return _decoded(json.loads(data))


def _encoded(value: object) -> object:
    # A list is a JSON array; all else that JSON lacks is an object with one key, its kind.
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    for kind, name in ((tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if isinstance(value, kind):
            return {name: [_encoded(item) for item in value]}
    return _encoded_scalar(value)


def _encoded_scalar(value: object) -> object:
    match value:
        case None | bool():
            return value
        case int():
            number = int(value)
            return number if abs(number) < _EXACT_INTEGER else {"int": hex(number)}
        case float():
            return float(value)
        case str():
            return str.__str__(value)
        case bytes() | bytearray():
            return {"bytes": value.hex()}
        case complex():
            return {"complex": [value.real, value.imag]}
        case Fraction():
            return {"Fraction": str(value)}
        case Decimal():
            return {"Decimal": str(value)}
    raise TypeError(f"a {type(value).__name__} is no plain value")


_KINDS: Mapping[str, Callable[[Any], object]] = {
    "int": lambda text: int(text, 16),
    "dict": lambda pairs: {_decoded(key): _decoded(item) for key, item in pairs},
    "tuple": lambda items: tuple(map(_decoded, items)),
    "set": lambda items: set(map(_decoded, items)),
    "frozenset": lambda items: frozenset(map(_decoded, items)),
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "Fraction": Fraction,
    "Decimal": Decimal,
}


def _decoded(value: Any) -> object:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or next(iter(value)) not in _KINDS:
        raise ValueError(f"no kind of value: {list(value)[:3]}")
    ((kind, content),) = value.items()
    return _KINDS[kind](content)
