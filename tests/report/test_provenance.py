"""What tables say of the weights, the prompts and the command; and that hostile text is inert."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from synthetic import cell, failed, manifest, row, task

from cllm_bench.report.provenance import command
from cllm_bench.report.summary import summarise
from cllm_bench.report.tables import comparison_table
from cllm_bench.results.manifest import CheckpointSource, Manifest
from cllm_bench.results.schema import parse

EARLY = {"checkpoints": {"draft": "sha256:d" + 63 * "0", "target": "sha256:" + "1234567890" * 7}}


def text_of(used: Manifest) -> str:
    return comparison_table(
        [(used, summarise(used, [row(each.method, "q0") for each in used.cells]))]
    )


def test_every_kind_of_place_is_named() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    sources = {
        "target": CheckpointSource(
            kind="bundled", location="models/mini/target", fingerprint=digest
        ),
        "cllm": CheckpointSource(kind="folder", location="/home/me/my-cllm", fingerprint=digest),
        "draft": CheckpointSource(
            kind="hub", location="OWNER/NAME", revision="v2", fingerprint="hub:fedcba987654321"
        ),
    }
    used = replace(manifest(), sources=sources)
    assert (
        "- checkpoints: target `models/mini/target` (bundled), weights 0123456789; cllm "
        "`/home/me/my-cllm`, weights 0123456789; draft `OWNER/NAME@v2`, commit fedcba9876\n"
    ) in text_of(used)
    assert parse(Manifest, used.to_json()) == used


def test_early_manifests_have_the_hashes_of_the_roles_in_use() -> None:
    plain = manifest(configuration=EARLY)
    assert "- checkpoints: target weights 1234567890\n" in text_of(plain)
    drafted = manifest(cell("ar"), cell("jacobi", settings={"draft": "draft", "k": 4}))
    assert "- checkpoints: target weights 1234567890; draft weights d000000000\n" in text_of(
        replace(drafted, configuration=EARLY)
    )
    assert "- checkpoints: not stored\n" in text_of(manifest())


def test_runs_that_differ_in_a_checkpoint_have_other_tables() -> None:
    def used(digit: str) -> Manifest:
        own = CheckpointSource(kind="folder", location="/a", fingerprint=f"sha256:{digit * 64}")
        return replace(manifest(), sources={"target": own})

    assert text_of(used("1")) != text_of(used("2"))
    runs = [(each, summarise(each, [row("ar", "q0")])) for each in (used("1"), used("2"))]
    both = comparison_table(runs)
    for number in (1, 2):
        line = next(each for each in both.splitlines() if each.startswith(f"- run {number}: "))
        assert f"checkpoints: target `/a`, weights {str(number) * 10}" in line


def test_prompts_have_a_hash() -> None:
    stored = {"tasks": {"spider": {"data": "abcdef0123456789"}}}
    assert "- prompts: spider spider-1 (abcdef0123)\n" in text_of(manifest(configuration=stored))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("cllm-bench", "run", "--task", "a b"), "cllm-bench run --task 'a b'"),
        (("__main__.py", "run", "--limit", "4"), "cllm-bench run --limit 4"),
        (("__main__.py", "-q"), None),  # of another program
        (("script.py",), None),
        ((), None),
    ],
)
def test_the_command_that_repeats_a_run(argv: tuple[str, ...], expected: str | None) -> None:
    used = manifest(argv=argv)
    assert command(used) == expected
    end = text_of(used).partition("## To repeat\n\n")[2]
    if expected is None:
        assert "cllm-bench run --config FOLDER/config.toml" in end
    else:
        assert end == f"```bash\n{expected}\n```\n"


HOSTILE = "\x1b[2Ja|b<img src=x onerror=1>\n# c `d` ![e](http://f) \u202e" + "long" * 3000


def test_hostile_text_is_inert_in_markdown() -> None:
    used = manifest(
        cell("ar"),
        cell(HOSTILE),
        tasks=(task(notes=(HOSTILE,), source=HOSTILE, left_out={HOSTILE: ("q9",)}),),
        model=HOSTILE,
        argv=("cllm-bench", "run", "--model", "``` <b>\x1b[1m"),
    )
    rows = [row("ar", "q0"), failed(HOSTILE, "q0", error=HOSTILE)]
    text = comparison_table([(used, summarise(used, rows))])
    body, _, end = text.partition("## To repeat\n\n")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<img" not in text
    assert "](" not in body
    assert not [line for line in text.splitlines() if line.startswith("# c ")]
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert end.startswith("````bash\n")
    assert shlex.split(end.splitlines()[1])[:3] == ["cllm-bench", "run", "--model"]
