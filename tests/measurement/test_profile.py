"""`cllm-bench profile`: measured on a tiny family, and by hand where figures are derived."""

import json
from dataclasses import replace

import pytest
from families import cli

from cllm_bench.core.schema_version import SCHEMA
from cllm_bench.engine.checkpoint import Quantisation
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import ProductChoice, Runtime
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import Machine
from cllm_bench.measurement.profile import measure
from cllm_bench.report.profile import Profile, ProfileManifest, profile_report

MANIFEST = ProfileManifest(
    argv=("cllm-bench", "profile"),
    created="2026-07-01T10:00:00+00:00",
    versions={"torch": "2.13.0", "transformers": "5.23.0"},
    machine=Machine(platform="Linux", cpu="EPYC", cores=2, device="cpu"),
    runtime=Runtime("cpu", "float32", "sdpa", "eager", 1),
)


@pytest.fixture
def family(tiny):
    return find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())


def test_it_times_every_shape_that_fits(family):
    room = family.session("target").room
    found = measure(family, "target", (1, 4), (8, room - 1, room + 9), lambda *_: None)
    assert found.contexts == (8, room - 1)
    (first, last) = found.seconds
    assert all(seconds > 0 for seconds in first)
    assert last[0] is not None
    assert last[1] is None  # four more rows do not fit
    assert len(found.prefill) == 2
    assert 0 < found.outside < 1
    assert found.bandwidth_share(8) > 0
    assert (found.layers, found.fused_layers) == (2, 2)


def test_a_model_that_is_too_short(family):
    with pytest.raises(UserError, match="passes are timed from 99999 on"):
        measure(family, "target", (1,), (99_999,), lambda *_: None)


def test_the_forward_pass_is_left_as_it_was(family):
    measure(family, "target", (1,), (8,), lambda *_: None)
    assert "forward" not in family.model("target").__dict__


def test_the_report_by_hand():
    seconds = ((0.002, 0.004), (0.004, None))
    found = Profile(
        "m", "target", (1, 4), (100, 200), seconds, (0.01, 0.05), 0.04, 900, 1, 1e6, 2e6
    )
    assert found.bandwidth_share(100) == pytest.approx((900 + 100) / 0.002 / 2e6)
    text = profile_report(found, MANIFEST)
    assert "fused layers" not in text  # an earlier version did not say
    whole = replace(found, layers=4, fused_layers=3)
    assert "\n- fused layers: target 3 of 4\n" in profile_report(whole, MANIFEST)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["1", "2", "4"] in lines
    assert ["4", "4", "–"] in lines
    # two tokens in a pass of twice the time gain nothing; more than four do not fit in four rows
    assert ["4", "1.00×", "1.50×", "2.00×", "–", "–", "2.00"] in lines
    assert ["100", "10", "10,000", "25.0%"] in lines
    assert "a large read moves 0.002 GB/s here, and a large copy 0.001 GB/s" in text
    cached = replace(found, weights_bandwidth=8e6)
    assert cached.bandwidth_share(100) == pytest.approx(found.bandwidth_share(100) / 4)
    told = profile_report(cached, MANIFEST)
    assert (
        "reading as many bytes again and again moves 0.008 GB/s, which the shares are of; a" in told
    )
    choice = ProductChoice(
        counts={"8x8": 3},
        rows=(1, 4, 8),
        kernels={"8x8": ("plain", "mkl", "mkl")},
        milliseconds={"plain": (1.0, 2.0, 4.0), "chosen": (1.0, 1.5, 3.0)},
        copied_bytes=2_000_000,
    )
    assert (
        "- products of target: plain to 1, mkl to 8 rows, the fastest in a trial (time at 1/4/8 "
        "rows over plain: 1.00/0.75/0.75; packed copies 2 MB)"
    ) in profile_report(found, replace(MANIFEST, products={"target": choice}))
    quantised = replace(found, layers=2, quantised=Quantisation("gptq-4bit", "float16"))
    assert "quantised weights: target gptq-4bit" in profile_report(quantised, MANIFEST)
    assert "quantised" not in text
    unknown = profile_report(replace(found, read_bandwidth=None), MANIFEST)
    assert "a large read did not fit into the memory of the device" in unknown
    assert "25.0%" not in unknown


def test_the_command(monkeypatch, tmp_path, tiny, capsys):
    out = tmp_path / "out"
    arguments = ["profile", "--model", tiny[0], "--threads", 1, "--output", out]
    monkeypatch.setattr("cllm_bench.measurement.profile.CONTEXTS", (8,))
    monkeypatch.setattr("cllm_bench.measurement.profile.ROWS", (1, 4))
    assert cli(monkeypatch, *arguments) == 0
    assert (out / "passes.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((out / "profile.json").read_text(encoding="utf-8"))
    assert stored["schema"] == SCHEMA
    assert stored["profile"]["rows"] == [1, 4]
    assert stored["manifest"]["runtime"]["threads"] == 1
    assert "cached" in capsys.readouterr().out
    assert cli(monkeypatch, *arguments) == 2
    assert "holds something already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "cllm"], "no 'cllm' checkpoint"),
        (["--attention", "fast"], "not one of sdpa, eager"),
    ],
)
def test_what_a_user_is_told(monkeypatch, tmp_path, tiny, capsys, options, message):
    arguments = ["profile", "--model", tiny[0], "--output", tmp_path / "out", *options]
    assert cli(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
