"""Variants of a recipe: what `--vary` means."""

from dataclasses import dataclass

import pytest

from cllm_bench.ablation.variants import combinations, expand, following, parse_vary
from cllm_bench.errors import UserError


@dataclass(frozen=True)
class Made:
    """Settings for unit tests."""

    role = "made"
    builds_on = ()

    rate: float = 0.1
    copies: int = 1
    objective: str = "global"
    block_size: int = 16
    seed: int = 0
    fast: bool = False

    def __post_init__(self):
        if self.copies < 1:
            raise UserError("copies must be at least 1")


@dataclass(frozen=True)
class Decodes:
    """A method's settings."""

    block_size: int = 16
    fast: bool = False
    seed: int = 0
    checkpoint: str = "target"


def labels(vary, *, grid=False, settings=None):
    combined = combinations([parse_vary(text) for text in vary], grid=grid)
    return [each.label for each in expand("made", Made, settings or {}, combined)]


def test_one_factor_at_a_time_or_the_grid():
    vary = ["rate=0.1|0.2|0.3", "copies=1|2"]
    assert labels(vary) == ["base", "rate=0.2", "rate=0.3", "copies=2"]
    assert labels(vary, grid=True) == [
        "base",
        "copies=2",
        "rate=0.2",
        "rate=0.2+copies=2",
        "rate=0.3",
        "rate=0.3+copies=2",
    ]


def test_each_variant_once_however_it_is_written():
    assert labels(["rate=1e-1|0.2|2e-1", "rate=0.20"]) == ["base", "rate=0.2"]
    assert labels(["rate=0.1|0.5"], settings={"rate": "0.5"}) == ["base", "rate=0.1"]
    assert labels(["rate=1e+3"]) == ["base", "rate=1000.0"]


def test_a_value_may_carry_further_settings():
    vary = ["objective=global|local+copies=3", "fast=yes"]
    assert labels(vary) == ["base", "copies=3+objective=local", "fast=true"]


def test_labels_are_names_of_folders():
    found = labels([f"objective=../a b|..-a-b|{'x' * 200}"])
    assert found[1] == "objective=..-a-b"
    assert len(set(found)) == 4
    assert all("/" not in label and " " not in label and len(label) <= 80 for label in found)


@pytest.mark.parametrize(
    ("vary", "grid", "message"),
    [
        (["rat=1"], False, "recipe 'made' has no setting 'rat'; did you mean 'rate'?"),
        (["copies=many"], False, "copies=many is not an integer"),
        (["copies=1|0"], False, "copies must be at least 1"),
        (["rate"], False, "is not of the form KEY=VALUE|VALUE"),
        (["rate="], False, "is not of the form KEY=VALUE|VALUE"),
        (["rate=1+rate=2"], False, "'rate' is given twice"),
        (["rate=1", "copies=2+rate=3"], True, "'rate' is set by two --vary"),
    ],
)
def test_bad_variations(vary, grid, message):
    with pytest.raises(UserError, match=message.replace("|", r"\|").replace("?", r"\?")):
        labels(vary, grid=grid)


def test_the_method_follows_what_it_shares_with_the_recipe():
    def settings(recipe, given=None, varied=()):
        return following(Decodes, given or {}, recipe, varied)

    assert settings(Made()) == {}
    assert settings(Made(block_size=8)) == {"block_size": "8"}
    assert settings(Made(), varied={"block_size", "rate"}) == {"block_size": "16"}
    assert settings(Made(fast=True)) == {"fast": "true"}
    assert settings(Made(block_size=8), {"block_size": "4"}) == {"block_size": "4"}
    assert settings(Made(seed=7), varied={"seed"}) == {}  # another seed than the method's
