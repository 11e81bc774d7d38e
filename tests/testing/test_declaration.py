"""Checks of a method's declaration, settings and binding."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from broken_methods import Chain

from cllm_bench.testing.methods import MethodSuite


class Undocumented(Chain):
    __doc__ = None


@dataclass
class Thawed:
    """Not frozen."""

    exactness: ClassVar[str] = "exact"
    checkpoint: str = "target"


class BindsLate(Chain):
    """Weights are fetched when the clock runs."""

    def bind(self, family):
        return lambda prompt_ids, sampling: super().bind(family)(prompt_ids, sampling)


@dataclass(frozen=True)
class Needy(Chain):
    """A setting that nobody can leave out, and one that no text gives."""

    words: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Misdeclared(Chain):
    """A word that is none of the three."""

    exactness: ClassVar[str] = "approximately"


@pytest.mark.parametrize(
    ("method", "check", "message"),
    [
        (Undocumented(), "declaration", "Undocumented has no docstring"),
        (BindsLate(), "binding", "bind accepts a family that has no checkpoint at all"),
        (Thawed(), "declaration", "Thawed is no frozen dataclass"),
        (Misdeclared(), "declaration", "exactness = 'approximately' is not one of exact"),
        (Needy(), "settings", "Needy:words cannot be set from the command line"),
        (Chain(checkpoint="a,b"), "settings", "'b' in 'Chain:checkpoint=a,b' is not of the form"),
    ],
)
@pytest.mark.usefixtures("few_models")
def test_a_bad_declaration_is_told(method, check, message):
    found = MethodSuite(method, [], None, None, None).result(check)
    assert found.status == "failed"
    assert message in found.message
