"""What the notes under a table say about noise, disturbance, memory and the baseline."""

from dataclasses import replace

import pytest
from synthetic import cell, manifest, row

from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.manifest import CheckpointEntry


@pytest.mark.parametrize(
    ("pace", "told"), [(1.0, "are not meaningful"), (1.1, "which should include 1")]
)
def test_a_favoured_place_is_seen(pace, told):
    """The planted defect: one of two equal methods runs a tenth slower."""
    used = manifest(cell("ar"), cell("ar A/A", again=True), samples=40)
    noise = [1 + 0.01 * ((7 * i) % 11 - 5) for i in range(40)]
    found = [row("ar", f"q{i}", 1.0) for i in range(40)]
    found += [row("ar A/A", f"q{i}", pace * noise[i]) for i in range(40)]
    text = comparison_table([(used, summarise(used, found))])
    assert told in text
    assert ("**noise floor" in text) == (pace > 1)


def test_a_disturbed_run_says_so():
    used = manifest(cell("ar"), cell("jacobi"))
    calm = [row(name, "q0", foreign_load=0.1) for name in ("ar", "jacobi")]
    busy = [replace(each, foreign_load=0.9, slowed=("power cap",)) for each in calm]
    assert "other programs" not in comparison_table([(used, summarise(used, calm))])
    text = comparison_table([(used, summarise(used, busy))])
    assert "they kept 0.9 of 2 cores busy" in text
    assert "slowed down during the measurement**: power cap" in text


def test_memory_is_the_whole_run_s():
    used = manifest(cell("ar"), cell("jacobi"))
    found = [row("ar", "q0"), row("jacobi", "q0")]
    assert "peak memory is" not in comparison_table([(used, summarise(used, found))])
    found[1] = replace(found[1], peak_memory_bytes=5)
    text = comparison_table([(used, summarise(used, found))])
    assert text.count("including weights and caches of the other methods") == 1


def test_fused_layers_and_windows_are_conditions():
    early = manifest(cell("ar"))
    rows = [row("ar", "q0")]
    assert "fused layers" not in comparison_table([(early, summarise(early, rows))])
    target, draft = (
        CheckpointEntry(layers=4, fused_layers=4),
        CheckpointEntry(layers=2, fused_layers=0, window=4096),
    )
    used = replace(early, checkpoints={"target": target, "draft": draft})
    text = comparison_table([(used, summarise(used, rows))])
    assert (
        "fused layers: target 4 of 4, draft 0 of 2; "
        "attention windows, which no sequence leaves: draft 4,096 tokens"
    ) in text


def test_a_weak_baseline_is_told():
    own = cell("ar", weight_bytes=900, cache_bytes_per_token=4)
    used = manifest(own, copy_bandwidth=10_000.0)
    (found,) = summarise(used, [row("ar", "q0")])
    # one pass a second over the weights and a context of 20 + 5.5 tokens
    assert found.bandwidth_share == pytest.approx((900 + 4 * 25.5) / 10_000)
    assert "far from the limit of the memory" in comparison_table([(used, [found])])
    strong = replace(used, copy_bandwidth=2000.0)
    assert "far from the limit" not in comparison_table(
        [(strong, summarise(strong, [row("ar", "q0")]))]
    )
