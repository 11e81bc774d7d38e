"""The recipe `medusa`: what heads learn, and short trainings to a family that runs."""

import json
import math

import pytest
import torch
from cllm_trainings import training_log
from families import cli, rows
from random_models import KINDS, tiny_model

from cllm_bench.contracts import Source, TrainingJob
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.training.objective import OptimiserSettings
from cllm_bench.training.recipe_runner import run_recipe
from cllm_bench.training.trainer import Optimiser, trained_state
from cllm_bench_methods.medusa.heads import StoredHeads, new_heads, read_heads
from cllm_bench_methods.medusa.method import Medusa
from cllm_bench_methods.medusa.recipe import MedusaRecipe, went_wrong
from cllm_bench_methods.medusa.training import (
    NONE,
    Learner,
    heads_alone,
    labels_of,
    measures,
    model_with_heads,
    rank_of,
)
from cllm_bench_methods.recipes.examples import Example, collate

CPU = Runtime("cpu", "float32", threads=1)
SHORT = {
    "heads": 3,
    "nodes": 5,
    "questions": 12,
    "held_out": 4,
    "steps": 4,
    "joint_steps": 4,
    "tokens": 256,
    "evaluate_every": 2,
    "clean": False,
}


def test_labels_by_hand():
    """The drawing in the module, beside a longer answer."""
    batch = collate([Example([1, 2], [3, 4, 5, 6]), Example([7], [8, 9, 10, 11, 12])])
    labels = labels_of(batch["ids"], batch["weights"], 2)
    assert labels.rows.tolist() == [
        [False, True, True, True, True, False, False, False],
        [True, True, True, True, True, False, False, False],
    ]
    assert labels.model.tolist() == [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert labels.heads.tolist() == [
        [4, 5, 6, NONE, 9, 10, 11, 12, NONE],
        [5, 6, NONE, NONE, 10, 11, 12, NONE, NONE],
    ]


def test_labels_are_tokens_t_plus_two_plus_k():
    """Where every token says its position, nothing can be off by one."""
    lengths = [(3, 9), (1, 4), (6, 1), (2, 12)]
    batch = collate([Example(list(range(p)), list(range(p, p + a))) for p, a in lengths])
    labels = labels_of(batch["ids"], batch["weights"], 5)
    at = labels.rows.nonzero()[:, 1]
    assert torch.equal(labels.model, at + 1)
    for head, due in enumerate(labels.heads):
        known = due != NONE
        assert torch.equal(due[known], (at + 2 + head)[known])
    assert len(at) == sum(a for _, a in lengths)
    assert (labels.heads != NONE).sum(1).tolist() == [
        sum(max(0, a - 1 - head) for _, a in lengths) for head in range(5)
    ]


class Counting(torch.nn.Module):
    """A model that counts, modulo its vocabulary; its hidden states tell the token."""

    def __init__(self, size=11):
        super().__init__()
        self.size = size
        self.lm_head = torch.nn.Linear(size, size, bias=False)
        self.lm_head.weight.data = 9.0 * torch.eye(size).roll(1, 0)

    @property
    def base_model(self):
        return self._body

    def _body(self, input_ids, use_cache):
        states = torch.nn.functional.one_hot(input_ids, self.size).float()
        return type("Output", (), {"last_hidden_state": states})

    def get_output_embeddings(self):
        return self.lm_head


def test_trained_heads_predict_exactly_t_plus_two_plus_k(tmp_path):
    model, count = Counting(), 3
    model.device, model.dtype = torch.device("cpu"), torch.float32
    examples = [Example([s], [(s + 1 + i) % 11 for i in range(8)]) for s in range(11)]
    assert model.lm_head(torch.eye(11)).argmax(-1).tolist() == [*range(1, 11), 0]
    module, outputs = heads_alone(model, new_heads(count, model.lm_head.weight, own=True), own=True)
    learner = Learner(module, outputs, count, decay=0.8)
    # At first every head says what the model says: t + 1, which is wrong for all of them.
    assert torch.all(learner.ranks(module, examples) > 0)
    settings = OptimiserSettings(150, 0.05, weight_decay=0.0)
    optimiser = Optimiser(module, settings, tmp_path, lambda *_: None)
    optimiser.fit(lambda _: collate(examples), learner.loss)
    heads = StoredHeads("", module.state_dict(), {}).attach(model, count)
    for token in range(11):
        (hidden,) = torch.eye(11)[token : token + 1]
        ahead = [(token + 2 + head) % 11 for head in range(count)]
        assert heads.best(hidden, 1)[:, 0].tolist() == ahead
    ranks = learner.ranks(module, examples)
    assert ranks.shape == (11 * 7, count)  # all that open a tree: not those before the last token
    assert torch.all((ranks == 0) | (ranks == 11))
    assert [(ranks[:, head] == 11).sum() for head in range(count)] == [0, 11, 22]  # past the end
    found = measures(ranks, nodes=4)
    assert found["tree"] == "0.0.0"
    assert found["worths"] == {"0": 1.0, "0.0": 0.8571, "0.0.0": 0.7143}
    assert [head[0] for head in found["accuracies"]] == [1.0, 0.8571, 0.7143]
    assert learner.watch(module, examples)["held_out_tokens_per_pass"] == pytest.approx(25 / 7)


def test_ranks():
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])
    assert rank_of(logits, torch.tensor([2, 0, NONE])).tolist() == [1, 0, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [True, False])
def test_training_and_decoding_see_the_same_hidden_states(kind, own):
    """What a session gives the heads is what both ways of training give them."""
    model = tiny_model(kind)
    text = Example([3, 1, 4, 1], [5, 9, 2, 6, 5, 3])
    batch = collate([text])
    labels = labels_of(batch["ids"], batch["weights"], 2)
    heads = new_heads(2, model.get_output_embeddings().weight, own=own)
    torch.manual_seed(1)
    torch.nn.init.normal_(heads[1][0].linear.weight)
    with torch.no_grad():
        together, joint = model_with_heads(model, heads, own=own)
        logits, said = joint(together, batch["ids"], labels.rows)
        _, alone = heads_alone(model, heads, own=own)[1](heads, batch["ids"], labels.rows)
    session = Session(model)
    output = session.prefill(torch.tensor(text.prompt), hidden=True)
    output = session.forward(text.answer[:-1], hidden=True)
    stored = StoredHeads("", heads.state_dict(), {}).attach(model, 2)
    # Row 0 predicts the answer's first token, and is the prompt's; the session has the others.
    torch.testing.assert_close(logits[1:], output.logits, rtol=1e-4, atol=1e-4)
    for ways in (said, alone):
        for row, hidden in enumerate(output.hidden, start=1):
            expected = torch.stack([each[row].topk(3).indices for each in ways])
            assert torch.equal(stored.best(hidden, 3), expected)
    assert torch.equal(said[0].argmax(-1), logits.argmax(-1))  # head 0 adds nothing yet


def test_the_loss_is_the_weighted_sum_of_its_parts():
    model = tiny_model("llama")
    batch = collate([Example([3, 1], [5, 9, 2, 6, 5]), Example([7], [8, 2])])
    heads = new_heads(3, model.get_output_embeddings().weight, own=True)
    alone = Learner(*heads_alone(model, heads, own=True), 3, decay=0.5)
    parts = alone.loss(alone.module, batch)
    assert parts.count == 7
    assert list(parts.parts) == ["head_0_loss", "head_1_loss", "head_2_loss"]
    weighted = sum(0.5**head * loss for head, loss in enumerate(parts.parts.values()))
    torch.testing.assert_close(parts.total, weighted)
    # Head 2 by hand: only the first answer has tokens for it, and it says what the model says.
    logits = model(input_ids=batch["ids"]).logits[0, 1:3]
    by_hand = torch.nn.functional.cross_entropy(logits, torch.tensor([6, 5]), reduction="sum")
    torch.testing.assert_close(parts.parts["head_2_loss"], by_hand)
    joint = Learner(*model_with_heads(model, heads, own=True), 3, decay=0.5, share=0.2)
    both = joint.loss(joint.module, batch)
    torch.testing.assert_close(both.total, 0.2 * weighted + both.parts["ar_loss"])


def arguments(tiny, output, *more, **settings):
    chosen = ",".join(f"{name}={value}" for name, value in {**SHORT, **settings}.items())
    family, plugin = tiny
    asked = ["train", f"medusa:{chosen}", "--model", family, "--plugin", plugin]
    common = ["--task", "counting:count=20", "--data", plugin.parent, "--output", output]
    return [*map(str, [*asked, *common, "--device", "cpu", "--threads", 1, *more])]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """What a short training leaves."""
    out = tmp_path_factory.mktemp("trained") / "family"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, *arguments(tiny, out)) == 0
    return out


def run(monkeypatch, tmp_path, tiny, model, *methods):
    asked = [
        "run",
        "--no-noise-floor",
        "--model",
        model,
        "--plugin",
        tiny[1],
        "--task",
        "counting:count=4",
    ]
    common = ["--data", tmp_path, "--output", tmp_path / "out", "--repeats", 1, "--threads", 1]
    chosen = [part for method in methods for part in ("--method", method)]
    assert cli(monkeypatch, *asked, *chosen, *common) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    return {each["method"]: each for each in found}


def test_it_leaves_a_family_that_runs_at_once(monkeypatch, tmp_path, tiny, trained):
    methods = ("medusa", "medusa:tree=chain", "medusa:nodes=3", "medusa:acceptance=typical")
    found = run(monkeypatch, tmp_path, tiny, trained, *methods)
    assert found.keys() == {"ar", *methods}
    assert {found[method]["exact_match"] for method in methods[:3]} == {1.0}
    assert {each["checkpoint"] for each in found.values()} == {"target"}
    drafted = {row["method"]: set(row["drafted"]) for row in rows(tmp_path / "out")}
    assert drafted["medusa:tree=chain"] == {3}
    assert drafted["medusa:nodes=3"] == {3}


def test_what_lies_beside_the_heads(tiny, trained):
    """No copy of the target, whose weights stay as they were."""
    folder = trained / "medusa"
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "config.json",
        "medusa_lm_head.safetensors",
        "training_config.json",
        "training_log.jsonl",
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "medusa"
    assert (config["medusa_num_heads"], config["medusa_num_layers"]) == (3, 1)
    assert config["base_model_name_or_path"] == "target"
    measured = config["medusa"]
    worths = list(measured["worths"].values())
    assert worths == sorted(worths, reverse=True)
    assert [len(head) for head in measured["accuracies"]] == [10, 10, 10]
    for rank, worth in enumerate(measured["accuracies"][0]):
        assert measured["worths"].get(str(rank), 0.0) == worth
    lines = training_log(folder)
    assert [line["step"] for line in lines] == [0, 2, 4]
    held_out = {f"held_out_{n}" for n in ("head_0_loss", "head_2_loss", "tokens_per_pass")}
    assert held_out | {"head_0_loss", "loss", "gradient_norm"} <= lines[-1].keys()
    assert "ar_loss" not in lines[-1]
    kept = json.loads((folder / "training_config.json").read_text(encoding="utf-8"))
    assert kept["configuration"]["settings"]["heads"] == 3
    assert kept["cleaning"]["kept_answers"] == 12
    names = trained_state(trained / "training" / "medusa" / "fit").keys()
    assert {name.partition(".")[0] for name in names} == {"0", "1", "2"}  # heads alone


@pytest.fixture(scope="module")
def job(tiny):
    """A job in this process."""
    from cllm_bench.core.registry import Registry

    task = Registry((tiny[1],)).tasks.get("counting")(count=20)
    found = task.samples(Source("folder", tiny[0], "train"))
    family = find_family(str(tiny[0]), runtime=CPU)

    def made(output, listen=lambda *_: None):
        return TrainingJob(family, {"counting": (task, found)}, output, listen)

    return made


def train(job, **settings):
    recipe = MedusaRecipe(**{**SHORT, **settings})
    return run_recipe("medusa", recipe, job, lambda _: None)


def test_shared_projections_leave_heads_without_them(job, tiny, tmp_path):
    out = train(job(tmp_path / "out"), projection="shared", precision="bf16")
    weights = read_heads(find_family(str(out)).checkpoint("medusa")).weights
    assert set(weights) == {f"{k}.0.linear.{n}" for k in range(3) for n in ("weight", "bias")}
    decoder = Medusa().bind(find_family(str(out), runtime=CPU))
    assert decoder.heads.projections is None
    assert decoder.extra_parameters == decoder.tree.depth * (32 * 32 + 32)


def test_joint_training_leaves_the_model_as_well(monkeypatch, job, tiny, tmp_path):
    out = train(job(tmp_path / "family"), train="joint", joint_learning_rate=1e-3)
    lines = training_log(out / "medusa")
    assert {"ar_loss", "head_0_loss", "held_out_ar_loss"} <= lines[-1].keys()
    config = json.loads((out / "medusa" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["medusa_num_heads"] == 3
    target = find_family(str(tiny[0]), runtime=CPU).model("target").state_dict()
    model = find_family(str(out), runtime=CPU).model("medusa").state_dict()
    assert any(not torch.equal(model[name], target[name].bfloat16()) for name in target)
    method = "medusa:checkpoint=medusa"
    found = run(monkeypatch, tmp_path, tiny, out, method)
    assert found.keys() == {"ar", "ar:checkpoint=medusa", method}
    assert found[method]["exact_match"] == 1.0


class StoppedError(Exception):
    pass


def test_stopped_anywhere_it_ends_with_the_same_weights(job, tmp_path, monkeypatch):
    """With learning rates of their own for model and heads, whose order a resume must keep."""
    real = OptimiserSettings.__init__
    monkeypatch.setattr(
        OptimiserSettings, "__init__", lambda self, *a, **k: real(self, *a, **k | {"save_every": 0})
    )
    settings = {"train": "joint", "joint_learning_rate": 1e-3}

    def stopping(at):
        seen = []

        def listen(what, done, total):
            if what.startswith("loss"):
                seen.append(done)
                if len(seen) == at:
                    raise StoppedError

        return listen

    whole = train(job(tmp_path / "whole"), **settings)
    for at in (2, 5, 1):
        with pytest.raises(StoppedError):
            train(job(tmp_path / "broken", stopping(at)), **settings)
    broken = train(job(tmp_path / "broken"), **settings)
    for name in ("model.safetensors", "medusa_lm_head.safetensors", "config.json"):
        assert (broken / "medusa" / name).read_bytes() == (whole / "medusa" / name).read_bytes()
    assert training_log(broken / "medusa") == training_log(whole / "medusa")


def test_a_child_of_the_model_may_learn_at_a_rate_of_its_own(tmp_path):
    """The first step of AdamW moves a weight by the learning rate, whatever the gradient."""
    from cllm_bench.training.objective import LossSum

    model = torch.nn.ModuleDict({"slow": torch.nn.Linear(3, 1), "fast": torch.nn.Linear(3, 1)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = OptimiserSettings(1, 1e-3, weight_decay=0.0)
    optimiser = Optimiser(model, settings, tmp_path, lambda *_: None, {"fast": 4.0})

    def loss(module, batch):
        total = module["slow"](batch).sum() - module["fast"](batch).sum()
        return LossSum(total, 1, {})

    optimiser.fit(lambda _: torch.ones(1, 3), loss)
    for name, value in model.state_dict().items():
        moved = {"slow": -1e-3, "fast": 4e-3}[name.partition(".")[0]]
        torch.testing.assert_close(value - before[name], torch.full_like(value, moved))


def test_a_joint_training_that_goes_wrong_is_stopped(job, tmp_path):
    settings = {"train": "joint", "joint_learning_rate": 10.0, "joint_steps": 8}
    with pytest.raises(TrainingCollapsed, match="the AR loss on held-out answers went from"):
        train(job(tmp_path / "out"), **settings)
    figures = [{"held_out_ar_loss": loss} for loss in (0.5, 1.6, 1.4, 1.7, 1.8)]
    assert went_wrong(figures) == "the AR loss on held-out answers went from 0.5 to 1.8"
    assert [went_wrong(figures[:end]) for end in range(1, 5)] == [None] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "medusa: heads must be at least 1, not 0"),
        ({"questions": -1}, "medusa: questions must be at least 0, not -1"),
        ({"decay": 0.0}, "medusa: decay must be above 0, not 0.0"),
        ({"warm_up": 1.0}, "warm_up from 0 to below 1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        MedusaRecipe(**settings)


def test_figures_are_finite(trained):
    lines = training_log(trained / "medusa")
    assert all(math.isfinite(value) for line in lines for value in line.values())
