"""Ablations: what `--vary` means, and the command from training to table."""

import json
from dataclasses import dataclass

import pytest
from families import cli, rows, write_coding_task

from cllm_bench.ablation.report import TrainingFigures, ratio_of_totals, training_figures
from cllm_bench.ablation.variants import combinations, expand, following, parse_vary
from cllm_bench.errors import UserError

PLUGIN = '''
import json
from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Stage
from cllm_bench.errors import TrainingCollapsed, UserError


@dataclass(frozen=True)
class Damaged:
    """The target with its last layer scaled."""

    role: ClassVar[str] = "damaged"
    builds_on: ClassVar[tuple[str, ...]] = ("target",)

    scale: float = 1.0
    block_size: int = 16
    seed: int = 0

    def __post_init__(self):
        if self.scale < 0:
            raise UserError("scale must be 0 or more")

    def stages(self, job):
        def fit(folder):
            if self.scale > 100:
                raise TrainingCollapsed("the training collapsed at step 7: loss is nan; none kept")
            from cllm_bench.engine.loading import load_weights

            model = load_weights(job.family.checkpoint("target"), job.family.runtime)
            model.lm_head.weight.data *= self.scale
            left = job.output / self.role
            model.save_pretrained(left)
            log = [{"step": 20 * i, "loss": 1.0, "time": 5.0 * i} for i in range(1, 6)]
            text = "".join(json.dumps(line) + "\\n" for line in log)
            (left / "training_log.jsonl").write_text(text)
            if self.seed == 13:
                from cllm_bench_methods.target.recipe import train_tokenizer
                train_tokenizer(["something else"], 280).save_pretrained(left)

        def collect(folder):
            with (job.output.parent / "collected.txt").open("a") as file:
                file.write(f"{self.seed}\\n")

        return (Stage("collect", collect, key=f"seed {self.seed}"), Stage("fit", fit))
'''


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


def test_ratios_of_totals_are_paired():
    base = {f"q{i}": (10 + i, 10) for i in range(20)}
    ours = {name: (2 * kept, passes) for name, (kept, passes) in base.items()}
    value, interval = ratio_of_totals(base, None, 0)
    assert value == pytest.approx(1.95)
    assert interval.low < 1.95 < interval.high
    ratio, paired = ratio_of_totals(ours | {"only ours": (99, 1)}, base, 0)
    assert ratio == pytest.approx(2.0)
    assert tuple(paired) == pytest.approx((2.0, 2.0))
    assert ratio_of_totals({}, base, 0) == (None, None)


def test_training_figures_leave_pauses_out(tmp_path):
    absent = TrainingFigures(steps=None, seconds=None, questions=0)
    assert training_figures(tmp_path, {}) == absent
    times = [100.0, 110.0, 500.0, 510.0, 520.0]
    lines = [{"step": 20 * i, "time": time} for i, time in enumerate(times, 1)]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "training_log.jsonl").write_text(text, encoding="utf-8")
    assert training_figures(tmp_path, {}) == TrainingFigures(steps=100, seconds=50.0, questions=0)


@pytest.fixture
def ablate(monkeypatch, tmp_path, tiny):
    """Drive the command on the tiny family; return its exit code."""
    family, task = tiny
    plugin = tmp_path / "damaged.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    common = ["--model", family, "--plugin", task, "--plugin", plugin, "--data", tmp_path]

    def run(recipe, *arguments, output=tmp_path / "out", method="jacobi"):
        options = ["--task", "counting:max_new_tokens=8", "--threads", 1, "--device", "cpu"]
        options += ["--repeats", 1, "--output", output]
        if method:
            options += ["--method", method]
        return cli(monkeypatch, "ablate", recipe, *common, *options, *arguments)

    return run


def read(folder):
    return json.loads((folder / "ablation.json").read_text(encoding="utf-8"))


def table(folder):
    """Read the table back: a mapping of titles to texts for each line."""
    text = (folder / "table.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    parts = [[part.strip() for part in line[1:-1].split(" | ")] for line in lines]
    return [dict(zip(parts[0], part, strict=True)) for part in parts[2:]]


def test_from_trainings_to_a_table_and_again(ablate, tmp_path, capsys):
    out = tmp_path / "out"
    vary = ["--vary", "scale=1|3|1000", "--vary", "block_size=4"]
    assert ablate("damaged", *vary) == 0
    shown = capsys.readouterr()
    assert "variant 2 of 4: scale=3.0: trained" in shown.err
    collapse = "collapsed at step 7: loss is nan"
    assert f"variant 3 of 4: scale=1000.0: {collapse}; none kept" in shown.err
    assert shown.out == (out / "table.md").read_text(encoding="utf-8")

    base, scaled, collapsed, smaller = read(out)
    assert base["method"] == "jacobi:checkpoint=v00"
    assert smaller["method"] == "jacobi:block_size=4,checkpoint=v03"
    assert scaled["changed"] == {"scale": 3.0}
    assert base["training"] == {"steps": 100, "seconds": 25.0, "questions": 8}
    assert base["exact_match"] == smaller["exact_match"] == 1.0
    assert base["tokens_per_pass_vs_base"] == scaled["tokens_per_pass_vs_base"] == 1.0
    assert scaled["tokens_per_pass_vs_base_ci"] == [1.0, 1.0]  # greedily, a scale changes nothing
    low, high = base["tokens_per_pass_ci"]
    assert low <= base["tokens_per_pass"] <= high
    assert collapsed["collapsed"] == f"{collapse}; none kept"
    assert collapsed["score"] is None

    first, *rest = table(out)
    assert first["variant"] == "**base**"
    assert first["vs base"] == "1×"
    assert first["training"] == "100 steps, 25.0 s, 8 questions"
    assert [line["variant"] for line in rest] == [
        "scale=3.0",
        f"scale=1000.0 ({collapse})",
        "block_size=4",
    ]
    assert set(list(rest[1].values())[1:-2]) == {"–"}
    assert {"speedup", "vs own AR", "score", "Δ score", "exact match"} <= set(first)
    assert {"stationary per block", "fast forwarded per iteration"} <= set(first)
    text = shown.out
    assert "`scale=1.0, block_size=16, seed=0`" in text
    assert "8 of counting (folder)" in text
    assert "None" not in text

    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["configuration"]["variants"]["block_size=4"]["recipe"]["block_size"] == 4
    assert manifest["argv"][1] == "ablate"
    run = json.loads((out / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert [cell["checkpoint"] for cell in run["cells"]] == [
        "target",
        *["v00"] * 2,
        *["v01"] * 2,
        *["v03"] * 2,
    ]

    measured, before = rows(out / "run"), read(out)
    models = sorted(out.glob("variants/*/damaged/model.safetensors"))
    times = [model.stat().st_mtime_ns for model in models]
    assert len(models) == 3
    # What the variants share is made once.
    assert (out / "variants" / "collected.txt").read_text(encoding="utf-8") == "0\n"
    assert ablate("damaged", *vary) == 0
    assert [model.stat().st_mtime_ns for model in models] == times
    assert rows(out / "run") == measured
    assert read(out) == before

    capsys.readouterr()
    assert ablate("damaged", "--vary", "scale=4") == 2
    error = capsys.readouterr().err.strip()
    assert "pick another --output" in error
    assert len(error.splitlines()) == 1


def test_when_the_base_collapses_nothing_is_compared_with_it(ablate, tmp_path):
    assert ablate("damaged:scale=1000", "--vary", "scale=1") == 0
    base, variant = read(tmp_path / "out")
    assert base["collapsed"]
    assert variant["tokens_per_pass"] >= 1
    assert variant["tokens_per_pass_vs_base"] is None
    assert table(tmp_path / "out")[1]["vs base"] == "–"


def test_a_variant_with_a_tokenizer_of_its_own(ablate, capsys):
    assert ablate("damaged", "--vary", "seed=13") == 2
    assert "variant 'seed=13' has another tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "arguments", "method", "message"),
    [
        ("damaged", [], "jacobi", "--vary is missing; known: scale, block_size, seed"),
        ("damaged", ["--vary", "scal=1"], "jacobi", "did you mean 'scale'?"),
        ("damaged", ["--vary", "scale=1|-1"], "jacobi", "scale must be 0 or more"),
        ("damaged", ["--vary", "scale=2"], None, "--method is missing: recipe 'damaged' builds"),
        ("damaged", ["--vary", "scale=2"], "jacoby", "did you mean 'jacobi'?"),
        ("damaged", ["--vary", "scale=2"], "jacobi:checkpoint=x", "leave it out"),
        ("damaged", ["--vary", "block_size=1"], "jacobi", "block_size must be at least 2"),
        ("damaged", ["--vary", "scale=2", "--limit", 0], "jacobi", "--limit must be at least 1"),
        ("damages", ["--vary", "scale=2"], "jacobi", "did you mean 'damaged'?"),
        ("target", ["--vary", "steps=2"], "jacobi", "training questions are too few"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_and_trains_nothing(
    ablate, tmp_path, capsys, recipe, arguments, method, message
):
    assert ablate(recipe, *arguments, method=method) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_for_something_else(ablate, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    assert ablate("damaged", "--vary", "scale=2") == 2
    assert "pick another --output" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_the_sandbox_is_tried_before_anything_is_trained(ablate, monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    arguments, weak = write_coding_task(tmp_path, monkeypatch)
    for name in ("counting", "coding"):
        (tmp_path / name).mkdir()
    arguments += ["--vary", "scale=3", "--limit", 1]
    assert ablate("damaged", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "programs can reach your files" in error
    assert "--allow-unsafe-code" in error
    assert len(error.splitlines()) == 1
    assert not out.exists()

    assert ablate("damaged", *arguments, "--allow-unsafe-code") == 0
    assert capsys.readouterr().err.count(f"{weak}\n") == 1
    for manifest in (out / "manifest.json", out / "run" / "manifest.json"):
        assert json.loads(manifest.read_text(encoding="utf-8"))["sandbox"] == weak.as_dict()


def test_the_recipe_target_on_the_built_in_questions(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["target:init=checkpoint,tokens=512,steps=2", "--vary", "learning_rate=2e-3|3e-2"]
    task = "spider:train_questions=300,max_new_tokens=4"
    options = ["--task", task, "--limit", 3, "--repeats", 1, "--threads", 1, "--device", "cpu"]
    command = ["ablate", *arguments, *options, "--method", "jacobi", "--output", out]
    assert cli(monkeypatch, *command) == 0
    base, variant = read(out)  # 2e-3 is the family's own: the base
    assert variant["variant"] == "learning_rate=0.03"
    assert variant["training"]["steps"] == 2
    assert base["training"]["questions"] == 300
    assert base["samples"] == 3
    assert base["source"] == "built-in"
    assert cli(monkeypatch, "table", out) == 2
    assert "holds an ablation; its run is in" in capsys.readouterr().err
    assert cli(monkeypatch, "table", out / "run") == 0


def test_a_missing_role_is_answered_with_the_command_that_trains_it(
    monkeypatch, tmp_path, command, capsys
):
    plugin = tmp_path / "damaged.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    arguments = ["--plugin", plugin, "--data", tmp_path, "--method", "jacobi:checkpoint=damaged"]
    assert cli(monkeypatch, *command, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "has no 'damaged' checkpoint; train one: `cllm-bench train damaged --model " in error
    assert "--task counting --output DIR`, or name one with --role damaged=" in error
