"""Training objectives as plug-ins: a local file trains, and the built-ins use the same door."""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from cllm_trainings import arguments, contents, training_log
from families import cli
from packed_answers import PLAIN, consistency, copy_of, gradient, texts
from packed_answers import tiny as tiny_model

from cllm_bench.contracts import BlockStates, Objective, StateBatch
from cllm_bench.core.registry import Registry
from cllm_bench.errors import UserError
from cllm_bench_methods.cllm.batches import cllm_loss, make_batch, pack, run
from cllm_bench_methods.cllm.comparison import PackedLogits
from cllm_bench_methods.cllm.objectives import Global, Local, Progressive
from cllm_bench_methods.cllm.packing import ar_loss, logits_of
from cllm_bench_methods.cllm.recipe import CllmRecipe

EXAMPLE = Path(__file__).parents[3] / "examples" / "objective.py"
MINE = '''
from dataclasses import dataclass

from cllm_bench import BlockStates


@dataclass(frozen=True)
class Mine:
    """Half a block is wrong, every other block reads noise, and the next state and y* teach."""

    share: float = 0.5
    lean: float = 1.0
    iterations: int = 2

    def states(self, block):
        return BlockStates(block.chain(unconverged=self.share), joined=block.index % 2 == 1)

    def losses(self, batch):
        total = 0.0
        for copy in range(batch.copies - batch.chains):
            near, far = batch.pair(copy, copy + batch.chains), batch.pair(copy)
            teacher = (near.teacher + far.teacher) / 2
            rows = (near.student - teacher).square().mean(-1) / (1 + far.depth)
            total = total + self.lean * (rows * near.weights).sum()
        # Of the last states, which have no next one to learn from.
        last = batch.copies - 1
        rows = batch.logits(last).logsumexp(-1).square()
        return {"square_loss": total, "size_loss": 1e-3 * rows[batch.exists(last)].sum()}
'''


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    return file


def test_built_ins_come_in_by_entry_points():
    found = {point.name: point.load() for point in entry_points(group="cllm_bench.objectives")}
    assert found == {"global": Global, "local": Local, "progressive": Progressive}
    for entry in Registry().objectives.entries():
        assert entry.error is None
        assert isinstance(entry.cls(), Objective)


def test_the_recipe_names_no_objective_but_the_default():
    for name in ("batches", "recipe", "states", "packing", "comparison"):
        text = (EXAMPLE.parents[1] / "methods" / "cllm" / f"{name}.py").read_text(encoding="utf-8")
        for objective in ("local", "progressive"):
            assert f'"{objective}"' not in text, name


@pytest.mark.parametrize("states", ["recorded", "online"])
def test_an_objective_from_a_file_trains(monkeypatch, tmp_path, tiny, mine, states):
    out = tmp_path / "out"
    settings = {"objective": "mine:share=1;lean=2", "copies": 2, "iterations": 2, "states": states}
    asked = arguments(tiny, out, "--plugin", mine, **settings)
    assert cli(monkeypatch, *asked) == 0
    line = training_log(out / "cllm")[-1]
    assert line["square_loss"] > 0
    assert line["size_loss"] > 0
    parts = line["square_loss"] + line["size_loss"] + 10 * line["ar_loss"]
    assert line["loss"] == pytest.approx(parts)
    kept = json.loads((out / "cllm" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["objective"] == "mine:share=1;lean=2"
    assert kept["configuration"]["code"].keys() == {"mine.py"}


def test_an_edited_file_does_not_go_on(monkeypatch, tmp_path, tiny, mine, capsys):
    out = tmp_path / "out"
    settings = {"objective": "mine", "copies": 2, "iterations": 2, "steps": 1}
    asked = arguments(tiny, out, "--plugin", mine, **settings)
    assert cli(monkeypatch, *asked) == 0
    before = contents(out)
    assert cli(monkeypatch, *asked) == 0
    assert "fit-1: done before" in capsys.readouterr().err
    mine.write_text(MINE.replace("/ 2\n", "/ 3\n"), encoding="utf-8")
    assert cli(monkeypatch, *asked) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"error: '{out}' holds another training: training.code.mine.py = " in line
    assert contents(out) == before


def test_a_training_with_a_built_in_objective_notes_no_code(monkeypatch, tmp_path, tiny, mine):
    """It is what it was before objectives were plug-ins, though a plug-in lies beside it."""
    out = tmp_path / "out"
    assert cli(monkeypatch, *arguments(tiny, out, "--plugin", mine, steps=1)) == 0
    kept = json.loads((out / "cllm" / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"].keys() == {"recipe", "settings", "model", "tasks"}
    assert kept["configuration"]["settings"]["objective"] == "global"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("mien", "no objective named 'mien'; did you mean 'mine'? (`cllm-bench list` shows all)"),
        ("mine:shar=1", "objective 'mine' has no setting 'shar'; did you mean 'share'?"),
        ("mine:share=half", "mine:share=half is not a number"),
        ("mine:iterations=3", "objective 'mine' follows the setting 'iterations' beside it"),
        ("mine:share", "'share' in 'mine:share' is not of the form key=value"),
        ("early_first:decay=2", "early_first: decay must be above 0 and at most 1, not 2.0"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    monkeypatch, tmp_path, tiny, mine, capsys, objective, message
):
    out, more = tmp_path / "out", ("--plugin", mine, "--plugin", EXAMPLE)
    assert cli(monkeypatch, *arguments(tiny, out, *more, objective=objective)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("part", "instead", "message"),
    [
        ("block.chain(unconverged=self.share)", "block.chain()[:1]", "Mine: states() gave a block"),
        ('"square_loss"', '"square"', "Mine: losses() must give sums of shape () under names"),
        ('"square_loss"', '"ar_loss"', "other than ar_loss"),
        ("1e-3 * rows[batch.exists(last)].sum()", "rows", "must give sums of shape ()"),
    ],
)
def test_a_broken_objective_is_told_before_anything_is_collected(
    monkeypatch, tmp_path, tiny, mine, capsys, part, instead, message
):
    assert part in MINE
    mine.write_text(MINE.replace(part, instead), encoding="utf-8")
    settings = {"objective": "mine", "copies": 2, "iterations": 2}
    asked = arguments(tiny, tmp_path / "out", "--plugin", mine, **settings)
    assert cli(monkeypatch, *asked) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def ablate(tiny, out, mine, vary):
    short = "steps=1,questions=4,held_out=4,block_size=8,tokens=256,clean=false"
    asked = ["ablate", f"cllm:{short},copies=2,iterations=2", "--vary", vary, "--model", tiny[0]]
    more = ["--plugin", tiny[1], "--plugin", mine, "--task", "counting:count=12", "--limit", 2]
    common = ["--data", tiny[1].parent, "--output", out, "--device", "cpu", "--threads", 1]
    return [*asked, *more, *common, "--repeats", 1]


def test_objectives_are_varied(monkeypatch, tmp_path, tiny, mine, capsys):
    out = tmp_path / "out"
    assert cli(monkeypatch, *ablate(tiny, out, mine, "objective=local|mien")) == 2
    assert "no objective named 'mien'; did you mean 'mine'?" in capsys.readouterr().err
    assert not out.exists()
    assert cli(monkeypatch, *ablate(tiny, out, mine, "objective=local|mine:share=1;lean=2")) == 0
    variants = sorted(folder.name for folder in (out / "variants").iterdir())
    assert variants == ["base", "objective=local", "objective=mine-share=1-lean=2"]


def test_a_job_without_objectives_has_the_installed_ones(tmp_path):
    from cllm_bench.contracts import TrainingJob
    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.family_file import FamilyDescription

    family = ModelFamily(FamilyDescription("none", {}))
    job = TrainingJob(family, {}, tmp_path, lambda *_: None)
    recipe = CllmRecipe(objective="progressive", window=3, divergence="jsd")
    assert recipe.objective_of(job.objectives) == Progressive("jsd", 3, "packed")
    assert recipe.parts(job) == (Progressive,)
    with pytest.raises(UserError, match="local pairs each state with the next"):
        CllmRecipe(objective="local").objective_of(job.objectives)


def test_the_example_trains(monkeypatch, tmp_path, tiny):
    out = tmp_path / "out"
    asked = arguments(tiny, out, "--plugin", EXAMPLE, objective="early_first", copies=2)
    assert cli(monkeypatch, *asked) == 0
    line = training_log(out / "cllm")[-1]
    assert line["consistency_loss"] > 0
    assert line["anchor_loss"] > 0


def test_the_example_is_short_and_needs_the_public_names_alone():
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    body = lines[lines.index("@dataclass(frozen=True)") :]
    assert len(body) <= 45
    imports = [line.split()[1] for line in lines if line.strip().startswith("from ")]
    public = {"cllm_bench", "cllm_bench.contracts", "cllm_bench.errors", "cllm_bench.testing"}
    assert {name for name in imports if name.startswith("cllm_bench")} <= public


def test_the_example_without_decay_and_anchor_is_global():
    made = Registry([EXAMPLE]).objectives.get("early_first")(decay=1.0, anchor=0.0)
    model, states = tiny_model("llama"), replace(PLAIN, copies=2)
    packed = pack(texts(2), states, random.Random(0))
    terms = made.losses(PackedLogits(packed, logits_of(model, packed), states.chains))
    expected = consistency(logits_of(model, packed), packed, states)
    assert terms["consistency_loss"].item() == pytest.approx(expected.item())
    assert terms["anchor_loss"].item() == 0


@dataclass(frozen=True)
class Told:
    """Keeps what it is asked about each block, and gives it states of its own."""

    blocks: list

    def states(self, block):
        self.blocks.append(block)
        wrong = [(*block.fixed_point[:-1], 7 + step) for step in range(block.iterations)]
        return BlockStates(wrong, joined=block.index == 1)

    def losses(self, batch):
        raise AssertionError("not asked for")


def test_what_an_objective_is_told_of_a_block():
    objective = Told([])
    answers = texts(4, [(3, 10)])
    states = replace(PLAIN, objective=objective, copies=4, iterations=2, window=3)
    packed = pack(answers, states, random.Random(0))
    (answer,), blocks = answers, objective.blocks
    assert [block.index for block in blocks] == [0, 1, 2] * 2  # two chains
    for block in blocks:
        start = 4 * block.index
        assert block.fixed_point == answer.tokens[start : start + 4]
        assert block.prefix == answer.prompt + answer.tokens[:start]
        assert block.trajectory == answer.states[block.index]
        assert block.iterations == 2
    turns = [block.turn for block in blocks]
    assert all((b - a) % 3 == 1 for a, b in itertools.pairwise(turns[:3]))
    for copy in range(4):  # in order of iteration, then of chain
        assert copy_of(packed, 0, copy)[3::4] == [7 + copy // 2] * 2
        begins = packed.begins[0, packed.columns(copy)][:10] - 3
        assert begins.tolist() == [0] * 8 + [8] * 2


def test_what_a_pair_holds():
    model = tiny_model("llama")
    states = replace(PLAIN, copies=2, iterations=2)
    packed = pack(texts(2), states, random.Random(1))
    batch = PackedLogits(packed, logits_of(model, packed), states.chains)
    pair, near = batch.pair(0), batch.pair(0, 1)
    assert len(pair.tokens) == len(pair.depth) == len(pair.weights) == len(pair.student) > 0
    assert torch.equal(pair.student, near.student)
    assert not torch.equal(pair.teacher, near.teacher)
    assert not pair.teacher.requires_grad
    assert pair.weights.tolist() == [1.0] * len(pair.weights)
    assert set(pair.depth.tolist()) <= {1, 2, 3}
    assert batch.exists().sum() == batch.exists(0).sum() == packed.answers.sum()
    assert batch.logits().shape == batch.logits(1).shape
    # The rows of the answer at the same places, and the tokens that follow them.
    places = [
        (row, place)
        for row in range(len(packed.answers))
        for place in range(packed.span)
        if place + 1 < int(packed.answers[row]) and _differs(packed, row, place)
    ]
    ids = [packed.ids[row, int(packed.prompts[row]) + place + 1] for row, place in places]
    assert pair.tokens.tolist() == [int(token) for token in ids]
    assert pair.depth.tolist() == [place % 4 for _, place in places]
    rows = torch.stack([batch.logits()[row, place] for row, place in places])
    assert torch.equal(pair.teacher, rows)
    with pytest.raises(ValueError, match="'kl' is not one of forward_kl, reverse_kl, jsd"):
        pair.divergence("kl")


def _differs(packed, row, place):
    """Whether a wrong token stands in the row's block, up to the row."""
    noisy, prompt = copy_of(packed, row, 0), int(packed.prompts[row])
    fixed = packed.ids[row, prompt : prompt + len(noisy)].tolist()
    return any(noisy[i] != fixed[i] for i in range(place - place % 4, place + 1))


# Of the version before objectives were plug-ins: the same seeds give the same batches for ever.
DRAWN = {
    "global": "42e50d543a386072",
    "global-online": "796cbd693c839412",
    "local": "42e50d543a386072",
    "progressive": "3807c45a9b970b21",
    "progressive-online": "b563dea4ad55d927",
}
ONLINE = {"source": "online", "shift": True, "guess": "vocab", "window": 3}


@pytest.mark.parametrize("case", DRAWN)
def test_built_ins_draw_what_they_always_drew(case):
    name, _, online = case.partition("-")
    changes = ONLINE if online else {}
    window = changes.get("window", PLAIN.window)
    made = {"global": Global(), "local": Local(), "progressive": Progressive(window=window)}[name]
    states = replace(PLAIN, objective=made, copies=4, iterations=2, **changes)
    found = hashlib.sha256()
    for seed in range(5):
        packed = make_batch(texts(4, seed=seed), states, random.Random(seed)).packed
        for part in (packed.ids, packed.positions, packed.owner, packed.begins):
            found.update(json.dumps(part.tolist()).encode())
    assert found.hexdigest()[:16] == DRAWN[case]


@pytest.mark.parametrize("source", ["recorded", "online"])
def test_terms_are_added_and_each_has_its_gradient(source):
    model = tiny_model("llama")

    @dataclass(frozen=True)
    class Twice:
        def states(self, block):
            return BlockStates(block.chain())

        def losses(self, batch: StateBatch):
            loss = Global().losses(batch)["consistency_loss"]
            return {"first_loss": loss, "second_loss": 2 * loss}

    states = replace(PLAIN, source=source, copies=2, iterations=2, objective=Twice())
    batch = make_batch(texts(2), states, random.Random(0))
    loss = cllm_loss(model, batch, states)
    logits, packed = run(model, batch.packed, states)
    expected = 3 * consistency(logits, packed, PLAIN) + ar_loss(logits, packed)
    assert loss.total.item() == pytest.approx(expected.item())
    assert loss.parts.keys() == {"first_loss", "second_loss", "ar_loss"}
    found, wanted = gradient(loss.total, model), gradient(expected, model)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
