"""The optimiser in one process: what a step is, what is kept, and when it refuses to go on."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from next_token_training import next_token, texts
from random_models import tiny_model

from cllm_bench.engine.session import Session
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.training.objective import schedule
from cllm_bench.training.trainer import (
    CHECKPOINT,
    GOOD,
    LossSum,
    Optimiser,
    OptimiserSettings,
    trained_state,
)


def silent(*_):
    pass


def optimiser(model, folder, listen=silent, **settings):
    folder.mkdir(exist_ok=True)
    return Optimiser(
        model, OptimiserSettings(**{"learning_rate": 0.01, **settings}), folder, listen
    )


def squares(model, batch):
    return LossSum((model(batch) ** 2).sum(), len(batch), {})


def log(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_unequal_pieces_step_like_the_whole(tmp_path):
    data = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    cuts = (0, 1, 3, 8, 12)

    def fitted(accumulate, batches, folder):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimiser(model, folder, steps=40, accumulate=accumulate, clip=0.5).fit(batches, squares)
        return model.weight.detach(), log(folder)

    whole, whole_log = fitted(1, lambda _: data, tmp_path / "whole")
    cut, cut_log = fitted(4, lambda n: data[cuts[n % 4] : cuts[n % 4 + 1]], tmp_path / "cut")
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)
    assert [line["step"] for line in whole_log] == [20, 40]
    for left, right in zip(whole_log, cut_log, strict=True):
        assert left == pytest.approx(right, rel=1e-5)


def test_a_batch_with_nothing_to_learn_changes_no_direction(tmp_path):
    model = torch.nn.Linear(3, 1)
    before = model.weight.detach().clone()
    fit = optimiser(model, tmp_path / "fit", steps=1, weight_decay=0.0)
    fit.fit(lambda _: torch.zeros(0, 3), squares)
    assert torch.equal(model.weight, before)
    assert log(tmp_path / "fit")[0]["loss"] == 0


class StoppedError(Exception):
    pass


def test_stopped_anywhere_it_ends_with_the_same_weights_and_log(tmp_path):
    """With dropout, tied weights, and an evaluation that uses random numbers of its own."""

    def fit(folder, stop=None):
        def batches(number):
            if number == stop:
                raise StoppedError
            return texts(number)

        def evaluate(model):
            assert not model.training
            torch.rand(3)
            return {"loss_held_out": next_token(model, texts(99)).total}

        model = tiny_model("gpt2", tie_word_embeddings=True)
        assert model.config.attn_pdrop > 0
        whole = optimiser(model, folder, steps=12, accumulate=2, save_every=0)
        whole.fit(batches, next_token, evaluate, every=4)
        return model

    model = fit(tmp_path / "whole")
    for stop in (0, 9, 16, 23):
        with pytest.raises(StoppedError):
            fit(tmp_path / "other", stop)
    fit(tmp_path / "other")
    expected = trained_state(tmp_path / "whole")
    assert same(trained_state(tmp_path / "other"), expected)
    assert same(model.state_dict(), expected)
    assert log(tmp_path / "other") == log(tmp_path / "whole")
    assert [line["step"] for line in log(tmp_path / "whole")] == [0, 4, 8, 12]
    # Tied weights are one tensor in the file and afterwards.
    names = [name for name in expected if "wte" in name or "lm_head" in name]
    assert len(names) == 2
    assert len({expected[name].data_ptr() for name in names}) == 1


def test_gradient_checkpointing_changes_nothing(tmp_path):
    def fitted(folder, **settings):
        model = tiny_model("llama")
        optimiser(model, folder, steps=3, **settings).fit(texts, next_token)
        layers = model.model.layers
        assert [layer.gradient_checkpointing for layer in layers] == [bool(settings)] * 2
        return model.state_dict()

    plain = fitted(tmp_path / "plain")
    assert same(fitted(tmp_path / "again", gradient_checkpointing=True), plain)
    with pytest.raises(UserError, match="Linear has no gradient checkpointing"):
        optimiser(torch.nn.Linear(1, 1), tmp_path / "x", steps=1, gradient_checkpointing=True)


def test_bf16_computes_in_bf16_over_weights_in_float32(tmp_path):
    kinds = set()

    def loss(model, ids):
        value = next_token(model, ids)
        kinds.add(model(input_ids=ids, use_cache=False).logits.dtype)
        return value

    model = tiny_model("llama")
    for precision, kind in (("bf16", torch.bfloat16), ("no", torch.float32)):
        fit = optimiser(model, tmp_path / precision, steps=2, precision=precision)
        fit.fit(texts, loss)
        assert kinds == {kind}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        kinds.clear()
    with pytest.raises(ValueError, match="must be float32"):
        optimiser(model.to(torch.bfloat16), tmp_path / "x", steps=1)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_adapters_alone_are_trained_and_merge_into_the_weights(tmp_path, kind):
    model = tiny_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit = optimiser(model, tmp_path / "fit", steps=4, lora_rank=2, gradient_checkpointing=True)
    fit.fit(texts, next_token, lambda m: {"x": float(len(Session(m).prefill(texts(0)[0]).logits))})
    checkpoint = torch.load(tmp_path / "fit" / CHECKPOINT, weights_only=True)
    assert all(".lora_" in name for name in checkpoint["optimiser"]["state"])
    plain = tiny_model(kind)
    for name in (CHECKPOINT, GOOD):
        plain.load_state_dict(trained_state(tmp_path / "fit", name))
        with torch.no_grad():
            expected, found = model.eval()(texts(5)).logits, plain(texts(5)).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    changed = {n for n, value in plain.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.endswith("proj.weight") or ".c_" in name for name in changed)


def test_adapters_need_peft(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'cllm-bench\[lora\]'"):
        optimiser(tiny_model("llama"), tmp_path / "fit", steps=1, lora_rank=2)


def test_evaluations_are_logged_shown_judged_and_kept(tmp_path):
    seen, shown = [], []
    values = iter([5.0, 4.0, 3.0])
    fit = optimiser(
        tiny_model("llama"), tmp_path / "fit", lambda *what: shown.append(what), steps=5
    )
    fit.fit(
        texts,
        next_token,
        lambda _: {"repeats": next(values)},
        every=3,
        guard=lambda found: seen.append([dict(one) for one in found]),
    )
    assert seen[-1] == [
        {"step": 0, "repeats": 5.0},
        {"step": 3, "repeats": 4.0},
        {"step": 5, "repeats": 3.0},
    ]
    # Each is judged twice: were it the same again, would that stop the training?
    assert [len(found) for found in seen] == [2, 1, 3, 2, 4, 3]
    lines = log(tmp_path / "fit")
    assert lines[0] == {"step": 0, "repeats": 5.0}
    assert [(line["step"], line["repeats"]) for line in lines[1:]] == [(3, 4.0), (5, 3.0)]
    assert 0 < lines[1]["first"] < lines[1]["loss"]  # a part is a sum over the same count
    assert shown[3] == (f"loss {shown[3][0].split()[1][:-1]}, repeats 4", 4, 5)
    assert torch.load(tmp_path / "fit" / GOOD, weights_only=True)["step"] == 5


def test_what_fails_the_guard_stops_for_good(tmp_path):
    def run():
        fit = optimiser(tiny_model("llama"), tmp_path / "fit", steps=9, save_every=0)
        fit.fit(texts, next_token, lambda _: {"repeats": 0.5}, every=2, guard=guard)

    def guard(found):
        return "repeats 50% > 10%" if len(found) > 2 else None

    message = (
        r"collapsed at step 4: repeats 50% > 10%; "
        r"the last good weights, of step 0, are in '.*good\.pt'$"
    )
    with pytest.raises(TrainingCollapsed, match=message):
        run()
    kept = contents(tmp_path / "fit")
    assert json.loads(kept["collapsed.json"])["step"] == 4
    assert log(tmp_path / "fit")[-1]["step"] == 4
    # At step 2 one evaluation more of that kind would have stopped it: those weights are not good.
    assert torch.load(tmp_path / "fit" / GOOD, weights_only=True)["step"] == 0
    with pytest.raises(TrainingCollapsed, match=message):
        run()
    assert contents(tmp_path / "fit") == kept


@pytest.mark.parametrize("where", ["loss", "gradient_norm"])
def test_what_is_no_number_never_enters_the_weights(tmp_path, where):
    def loss(model, number):
        value = squares(model, torch.ones(1, 3))
        zero = (value.total - value.total).abs()
        wrong = {"loss": value.total / 0, "gradient_norm": value.total + zero.sqrt()}
        return LossSum(wrong[where], 1, {}) if number == 2 else value

    model = torch.nn.Linear(3, 1)
    fit = optimiser(model, tmp_path / "fit", steps=9, save_every=0)
    with pytest.raises(TrainingCollapsed, match=f"step 3: {where} is (inf|nan); no good weights"):
        fit.fit(lambda number: number, loss)
    checkpoint = torch.load(tmp_path / "fit" / CHECKPOINT, weights_only=True)
    assert checkpoint["step"] == 2
    assert same(model.state_dict(), checkpoint["model"])
    assert log(tmp_path / "fit")[-1][where] is None


def test_a_save_that_takes_long_is_made_more_rarely(tmp_path, monkeypatch):
    import cllm_bench.training.trainer as module

    clock = [0.0]
    saves = []
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def write(file, state):
        saves.append(state["step"])
        clock[0] += 10.0

    monkeypatch.setattr(module, "write_state", write)

    def batches(number):
        clock[0] += 1.0
        return torch.ones(1, 3)

    fit = optimiser(torch.nn.Linear(3, 1), tmp_path / "fit", steps=500, save_every=5)
    fit.fit(batches, squares)
    assert saves == [5, 205, 405, 500]


def test_processes_must_share_a_step_evenly(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"accumulate=4 micro-batches .* 3 processes"):
        optimiser(torch.nn.Linear(1, 1), tmp_path / "fit", steps=1, accumulate=4)


def test_trackers(tmp_path):
    with pytest.raises(UserError, match="'tensorbored'; did you mean 'tensorboard'"):
        optimiser(torch.nn.Linear(1, 1), tmp_path / "fit", steps=1, trackers="tensorbored")
    if find_spec("tensorboard") is None:
        with pytest.raises(UserError, match="tracker 'tensorboard' is not installed"):
            optimiser(torch.nn.Linear(3, 1), tmp_path / "fit", steps=1, trackers="tensorboard")
        return
    fit = optimiser(torch.nn.Linear(3, 1), tmp_path / "fit", steps=1, trackers="tensorboard")
    fit.fit(lambda _: torch.ones(1, 3), squares)
    assert list((tmp_path / "fit").rglob("events.out.tfevents*"))


def test_the_rate_rises_then_falls_to_its_floor():
    settings = OptimiserSettings(100, 1.0, warm_up=0.1, floor=0.25)
    rates = [schedule(step, settings) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.25)


def test_a_child_of_the_model_may_learn_at_a_rate_of_its_own(tmp_path):
    """The first step of AdamW moves a weight by the learning rate, whatever the gradient."""
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
