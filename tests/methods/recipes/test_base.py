"""What all recipes share: which of their settings reach the optimiser, and what is too small."""

from dataclasses import fields

import pytest

from cllm_bench.core.registry import Registry
from cllm_bench.errors import UserError
from cllm_bench.training.objective import OptimiserSettings

COMMON = {"steps", "learning_rate", "accumulate", "precision", "seed"}
CLLM = {"warm_up", "trackers", "gradient_checkpointing", "lora_rank", "compile"}
MORE = {
    "target": {"compile"},
    "draft": {"warm_up"},
    "medusa": {"warm_up", "trackers"},
    "cllm": CLLM,
    "cllm-paper": CLLM,
}


def recipes():
    return {entry.name: entry.cls for entry in Registry().recipes.entries()}


def test_settings_named_like_the_optimiser_s_reach_it():
    """By their names: a renamed field would silently train with the optimiser's default."""
    of_optimiser = {field.name for field in fields(OptimiserSettings)}
    found = {name: {each.name for each in fields(cls)} for name, cls in recipes().items()}
    assert {name: own & of_optimiser for name, own in found.items()} == {
        name: COMMON | more for name, more in MORE.items()
    }


@pytest.mark.parametrize("name", MORE)
def test_what_is_too_small_is_named(name):
    role = recipes()[name].role
    with pytest.raises(UserError, match=f"^{role}: tokens must be at least 1, not 0$"):
        recipes()[name](tokens=0)
    with pytest.raises(UserError, match=f"^{role}: accumulate must be at least 1, not -1$"):
        recipes()[name](accumulate=-1)
