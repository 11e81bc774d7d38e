import pytest
import torch
from random_models import KINDS, tiny_model
from torch import nn

from cllm_bench.engine import attention
from cllm_bench.engine.cache import PreallocatedCache
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError


def full_logits(model, ids):
    with torch.inference_mode():
        return model(torch.as_tensor(ids)[None]).logits[0]


def test_pieces_give_the_logits_of_the_whole(model, prompts):
    ids = prompts[-1]
    expected = full_logits(model, ids)
    session = Session(model, capacity=8)
    first = session.prefill(ids[:5])
    torch.testing.assert_close(first.logits[0], expected[4], rtol=1e-4, atol=1e-4)
    for start, end in ((5, 6), (6, 13), (13, 14), (14, len(ids))):
        logits = session.forward(ids[start:end]).logits
        session.keep(end - start)
        torch.testing.assert_close(logits, expected[start:end], rtol=1e-4, atol=1e-4)
    assert session.length == len(ids)


def test_rejected_rows_leave_no_trace(model, prompts):
    ids = prompts[-1].tolist()
    session = Session(model)
    session.prefill(prompts[-1][:6])
    session.forward([1, 2, 3, 4])
    session.keep(0)
    session.forward([ids[6], ids[7], 9, 9, 9])
    session.keep(2)
    assert session.length == 8
    logits = session.forward(ids[8:12]).logits
    expected = full_logits(model, ids)[8:12]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_forward_without_keep_commits_nothing(llama):
    session = Session(llama)
    session.prefill(torch.tensor([1, 2, 3]))
    session.forward([4, 5])
    again = session.forward([6]).logits
    torch.testing.assert_close(again, full_logits(llama, [1, 2, 3, 6])[3:], rtol=1e-4, atol=1e-4)


def test_a_tree_scores_each_path_like_a_chain(model):
    """
    committed 1 2 3, then   4 ── 5 ── 6
                             └── 7 ── 8
    """
    session = Session(model)
    session.prefill(torch.tensor([1, 2, 3]))
    ids = [4, 5, 7, 6, 8]
    parents = [None, 0, 0, 1, 2]
    depth = torch.tensor([0, 1, 1, 2, 2])
    mask = torch.zeros(5, 5, dtype=torch.bool)
    for row in range(5):
        seen: int | None = row
        while seen is not None:
            mask[row, seen] = True
            seen = parents[seen]
    logits = session.forward(ids, depth=depth, mask=mask).logits
    left, right = full_logits(model, [1, 2, 3, 4, 5, 6]), full_logits(model, [1, 2, 3, 4, 7, 8])
    torch.testing.assert_close(logits[[0, 1, 3]], left[3:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[[0, 2, 4]], right[3:], rtol=1e-4, atol=1e-4)
    session.keep(torch.tensor([0, 2, 4]))
    assert session.length == 6
    after = session.forward([9]).logits
    expected = full_logits(model, [1, 2, 3, 4, 7, 8, 9])[6:]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_hidden_states_feed_the_vocabulary_projection(llama):
    session = Session(llama)
    output = session.prefill(torch.tensor([1, 2, 3]), hidden=True)
    assert output.hidden is not None
    assert output.hidden.shape == (1, 32)
    output = session.forward([4, 5], hidden=True)
    assert output.hidden is not None
    with torch.inference_mode():
        projected = llama.get_output_embeddings()(output.hidden)
    torch.testing.assert_close(projected, output.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_library_and_leave_no_hooks(kind):
    """Hooks that stay would make every later pass longer, of other methods too."""
    model = tiny_model(kind)  # its own: others may have had the library leave hooks already
    session = Session(model)
    session.prefill(torch.tensor([1, 2, 3]), hidden=True)
    found = session.forward([4, 5], hidden=True).hidden
    assert not any(module._forward_hooks for module in model.modules())
    with torch.inference_mode():
        ids = torch.tensor([[1, 2, 3, 4, 5]])
        states = model(ids, output_hidden_states=True).hidden_states[-1][0, 3:]
    torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-4)


def test_prefill_forgets_what_was_there(llama):
    session = Session(llama)
    session.prefill(torch.arange(20))
    session.prefill(torch.tensor([3]))
    assert session.length == 1
    torch.testing.assert_close(
        session.forward([4]).logits, full_logits(llama, [3, 4])[1:], rtol=1e-4, atol=1e-4
    )


def test_keep_refuses_rows_that_were_not_run(llama):
    session = Session(llama)
    session.prefill(torch.tensor([3]))
    session.forward([1, 2])
    with pytest.raises(ValueError, match="cannot keep 3 rows of a pass of 2"):
        session.keep(3)
    session.keep(2)
    with pytest.raises(ValueError, match="cannot keep 1 rows of a pass of 0"):
        session.keep(1)


def test_a_sequence_longer_than_the_model_is_refused():
    session = Session(tiny_model("gpt2"), capacity=8)
    with pytest.raises(UserError, match="reaches 600 tokens and the model has room for 512"):
        session.prefill(torch.zeros(600, dtype=torch.long))


@pytest.mark.parametrize("kernel", ["eager", "plain"])
@pytest.mark.parametrize("kind", ["llama-grouped", "qwen3", "gpt-neox"])
def test_other_kernels_agree_with_sdpa(prompts, kind, kernel):
    sdpa, other = tiny_model(kind), tiny_model(kind)
    attention.register()
    other.set_attn_implementation(kernel)
    outputs = []
    for model in (sdpa, other):
        session = Session(model)
        session.prefill(prompts[8])
        outputs.append(session.forward([1, 2, 3]).logits)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_a_padding_row_of_the_plain_kernel_in_bfloat16_is_finite():
    states = torch.randn(1, 2, 3, 4)
    mask = torch.full((1, 1, 3, 3), torch.finfo(torch.float32).min).triu(1)
    mask[..., 2, :] = torch.finfo(torch.float32).min  # sees nothing
    whole, _ = attention.plain_attention(nn.Module(), states, states, states, mask)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = attention.plain_attention(nn.Module(), states, states, states, mask)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.03, atol=0.03)


def test_the_cache_grows_by_doubling_and_keeps_its_contents():
    cache = PreallocatedCache(layers=1, capacity=4)
    states = torch.arange(4.0).view(1, 1, 4, 1)
    cache.update(states, states, 0)
    cache.commit(4)
    cache.reserve(9)
    assert cache.capacity == 16
    keys, _ = cache.update(torch.tensor([[[[9.0]]]]), torch.tensor([[[[9.0]]]]), 0)
    assert keys.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 9.0]


def test_scattered_rows_come_together_in_layers_of_any_shape():
    cache = PreallocatedCache(layers=3, capacity=4)
    shapes = [(2, 4), (2, 4), (1, 6)]  # heads and their size

    def states(rows, shape):
        return torch.arange(1.0, rows + 1).view(1, 1, rows, 1).expand(1, shape[0], rows, shape[1])

    def run(rows):
        pairs = (states(rows, shape) for shape in shapes)
        found = [cache.update(pair, -pair, layer) for layer, pair in enumerate(pairs)]
        return [tensor[0, 0, :, 0].tolist() for pair in found for tensor in pair]

    run(2)
    cache.commit(2)
    cache.reserve(6)
    run(4)
    cache.gather(torch.tensor([0, 2, 3]))
    cache.commit(5)
    found = run(1)
    for keys, values in zip(found[::2], found[1::2], strict=True):
        assert keys == [1, 2, 1, 3, 4, 1]
        assert values == [-1, -2, -1, -3, -4, -1]
