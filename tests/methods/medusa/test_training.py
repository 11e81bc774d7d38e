"""What Medusa's heads learn: labels, hidden states, losses and ranks."""

import pytest
import torch
from random_models import KINDS, tiny_model

from cllm_bench.engine.session import Session
from cllm_bench.training.objective import OptimiserSettings
from cllm_bench.training.trainer import Optimiser
from cllm_bench_methods.medusa.heads import StoredHeads, new_heads
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
