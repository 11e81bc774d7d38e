from __future__ import annotations

import json
from typing import Any

import pytest
from synthetic import cell, manifest, task

from cllm_bench.contracts import Sampling
from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.machine.environment import GitState
from cllm_bench.results.manifest import AblationManifest, CheckpointEntry, Manifest
from cllm_bench.results.schema import parse


def stored(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(manifest(schema=SCHEMA).to_json()))
    return found | changes


def early() -> dict[str, Any]:
    """Return a manifest as the first run that is stored under results/reference has it."""
    found = stored(git="abcdef0123456789")
    for name in (
        *("schema", "sampling", "sandbox", "checkpoints"),
        *("copy_bandwidth", "read_bandwidth", "flushed_bytes"),
    ):
        del found[name]
    later = {
        "cells": ("again", "weight_bytes", "cache_bytes_per_token", "extra_parameters"),
        "tasks": ("replies", "best_of", "judged", "asked"),
    }
    for name, keys in later.items():
        found[name] = [{k: v for k, v in each.items() if k not in keys} for each in found[name]]
    return found


def test_a_manifest_reads_back() -> None:
    whole = manifest(
        cell("ar", weight_bytes=8, cache_bytes_per_token=2, extra_parameters=0),
        cell("ar A/A", again=True),
        tasks=(task(left_out={"odd": ("x9",)}, notes=("n",), replies=12, asked={"ar": 12}),),
        schema=SCHEMA,
        configuration={"seed": 0, "tasks": {"spider": {"data": "40ac"}}},
        sampling=Sampling(0.7, 0.9),
        sandbox={"holds": ["files"], "missing": {}},
        copy_bandwidth=1e10,
        checkpoints={"target": CheckpointEntry(layers=2, fused_layers=1, window=96)},
        read_bandwidth=1.2e10,
        flushed_bytes=2**28,
    )
    assert parse(Manifest, json.loads(json.dumps(whole.to_json()))) == whole


def test_what_early_manifests_do_not_say() -> None:
    found = parse(Manifest, early())
    assert found.schema == 1
    assert found.git == GitState("abcdef0123456789")
    assert found.sampling == Sampling()
    assert found.copy_bandwidth is found.read_bandwidth is found.roof is found.sandbox is None
    assert found.flushed_bytes == 0
    assert found.checkpoints == {}
    (first, _), (only,) = found.cells, found.tasks
    assert first.weight_bytes is first.cache_bytes_per_token is first.extra_parameters is None
    assert not first.again
    assert (only.best_of, only.judged, only.asked) == (1, False, {})
    assert only.planned("ar") == only.samples == 6


def test_what_a_method_is_to_be_asked() -> None:
    whole = task(replies=12, asked={"ar A/A": 5})
    assert (whole.planned("ar"), whole.planned("ar A/A")) == (12, 5)


def test_a_later_key_is_not_minded() -> None:
    later = stored(energy_joules=3)
    later["cells"][0]["colour"] = "red"
    assert parse(Manifest, later) == parse(Manifest, stored())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "'seed' is True, not an integer"),
        ({"argv": "cllm-bench run"}, "'argv' is 'cllm-bench run', not a list"),
        ({"machine": {"platform": "x"}}, "no 'machine.cpu'"),
        ({"cells": [{"method": 3}]}, "'cells[0].method' is 3, not a text"),
        ({"tasks": {"spider": {}}}, "'tasks' is {'spider': {}}, not a list"),
        ({"tasks": [3]}, "'tasks[0]' is 3, not an object"),
        ({"runtime": {"threads": "1"}}, "'runtime.threads' is '1', not an integer"),
        ({"copy_bandwidth": float("nan")}, "'copy_bandwidth' is nan, not a finite number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"'") as caught:
        parse(Manifest, stored(**change))
    assert str(caught.value) == message


def test_an_ablation() -> None:
    whole = stored(training_questions={"spider": {"source": "built-in", "questions": 9}})
    found = parse(AblationManifest, whole)
    assert found.training_questions["spider"].questions == 9
    assert found.sandbox is None
    again = json.loads(json.dumps(found.to_json()))
    assert {name: whole[name] for name in again} == again
