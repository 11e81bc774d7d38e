"""The graph engine, its captures replaced by plain calls: the same tensors, the same results.

On a CUDA device the last test captures for good.
"""

import random
from types import SimpleNamespace

import pytest
import torch
from families import write_checkpoint
from greedy_decoding import decode
from random_models import KINDS, tiny_model

from cllm_bench.contracts import Sampling
from cllm_bench.engine import attention, fused_layers
from cllm_bench.engine.attention import GROUPED
from cllm_bench.engine.clock import Clock
from cllm_bench.engine.cuda_graphs import ROWS, Captures, GraphSession
from cllm_bench.engine.family import find_family
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench.measurement.executor import Executor
from cllm_bench.measurement.prompts import Prompt
from cllm_bench_methods.ar import Autoregressive, AutoregressiveDecoder
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder

attention.register()


def replayed(run):
    """Run at once, as a capture does, and again whenever asked."""
    run()
    return run


def session_of(model, captures=None, **options):
    return GraphSession(model, captures or Captures(replayed), **options)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_passes_agree_with_the_eager_engine(kind, prompts):
    model = fuse(tiny_model(kind))
    eager, graph = Session(model), session_of(model)
    generator = random.Random(0)
    for prompt in prompts[:6]:
        close(graph.prefill(prompt).logits, eager.prefill(prompt).logits)
        for rows in (1, 3, 16, 5, 1, 20):
            ids = [generator.randrange(60) for _ in range(rows)]
            close(graph.forward(ids).logits, eager.forward(ids).logits)
            kept = generator.randrange(rows + 1)
            graph.keep(kept)
            eager.keep(kept)
        assert graph.length == eager.length


@pytest.fixture
def traced(monkeypatch):
    """Layers as torch.compile traces them, without the machine code that it would make of them."""
    monkeypatch.setattr(fused_layers, "_COMPILING", {"backend": "aot_eager"})
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt-neox"])
def test_compiled_passes_agree_with_the_eager_engine(kind, prompts, traced):
    model = fuse(tiny_model(kind, attn_implementation=GROUPED))
    eager, compiled = Session(model), session_of(model, compiled=True)
    for prompt in prompts[:3]:
        for session in (eager, compiled):
            session.prefill(prompt)
        for rows in (1, 3, 16, 1):
            ids = list(range(rows))
            close(compiled.forward(ids).logits, eager.forward(ids).logits)
            for session in (eager, compiled):
                session.keep(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_layers_share_what_was_compiled(traced, dtype):
    """For one row and for more, whatever their number and the layer."""
    from torch._dynamo.utils import counters

    counters.clear()
    model = tiny_model("llama", attn_implementation=GROUPED)
    for layer in model.model.layers:  # in bfloat16 their norms are not torch's own then
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    compiled = session_of(fuse(model.to(dtype)), compiled=True)
    compiled.prefill(torch.arange(5))
    for rows in (1, 2, 4, 16, 32):
        compiled.forward([3] * rows)
    assert 3 * 2 <= counters["stats"]["unique_graphs"] <= 3 * 3


def test_a_second_model_is_compiled_for_its_own_sizes(monkeypatch):
    """In what two models share, every size that differs between them would be variable."""
    sizes = []

    def spy(graph, _):
        found = [
            node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"
        ]
        sizes.append([tuple(each.shape) for each in found if isinstance(each, torch.Tensor)])
        return graph.forward

    monkeypatch.setattr(fused_layers, "_COMPILING", {"backend": spy})
    torch.compiler.reset()
    for width in (32, 16):
        sizes.clear()
        model = tiny_model("llama", hidden_size=width, attn_implementation=GROUPED)
        compiled = session_of(fuse(model), compiled=True)
        compiled.prefill(torch.arange(5))
        for rows in (1, 2, 16):
            compiled.forward([3] * rows)
        weights = [shape for shapes in sizes for shape in shapes if len(shape) == 2]
        assert (width, width) in weights
        assert {type(size) for shape in weights for size in shape} == {int}


def test_prefills_are_not_compiled(monkeypatch):
    def refuse(_):
        raise AssertionError("compiled")

    monkeypatch.setattr(fused_layers, "_compiled_parts", refuse)
    session = session_of(fuse(tiny_model("llama")), compiled=True)
    session.prefill(torch.arange(5))
    with pytest.raises(AssertionError, match="compiled"):
        session.forward([1])


def test_trees_and_scattered_rows_agree(prompts):
    model = tiny_model("llama-grouped")
    eager, graph = Session(model), session_of(model)
    parents = [-1, 0, 0, 1, 1, 2, 4]
    depth = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    mask = torch.eye(7, dtype=torch.bool)
    for row, parent in enumerate(parents):
        while parent >= 0:
            mask[row, parent] = True
            parent = parents[parent]
    for session in (eager, graph):
        session.prefill(prompts[5])
    for ids in ([1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3]):
        found = [s.forward(ids, depth=depth, mask=mask, hidden=True) for s in (eager, graph)]
        close(found[1].logits, found[0].logits)
        close(found[1].hidden, found[0].hidden)
        for session in (eager, graph):
            session.keep(torch.tensor([0, 1, 4, 6]))
    close(graph.forward([5]).logits, eager.forward([5]).logits)


def test_few_graphs_serve_all_lengths(llama):
    captures = Captures(replayed)
    graph = session_of(llama, captures)
    graph.prefill(torch.arange(10))
    for rows in range(1, 17):
        graph.forward([3] * rows)
        graph.keep(1)
    assert captures.count == sum(size <= 16 for size in ROWS)
    assert captures.seconds > 0


def test_the_window_and_the_cache_grow():
    model = tiny_model("llama", max_position_embeddings=1024)
    captures = Captures(replayed)
    eager, graph = Session(model, capacity=8), session_of(model, captures, capacity=8)
    prompt = torch.arange(250) % 60
    for session in (eager, graph):
        session.prefill(prompt)
    for step in range(30):  # over the first window of 256, and what the cache began with
        ids = [step % 60, 7]
        close(graph.forward(ids).logits, eager.forward(ids).logits)
        for session in (eager, graph):
            session.keep(2)
    assert captures.count == 2


def test_up_to_the_last_position():
    """Padding rows would stand behind it."""
    model = tiny_model("llama", max_position_embeddings=64)
    eager, graph = Session(model), session_of(model)
    for session in (eager, graph):
        session.prefill(torch.arange(58))
    close(graph.forward([1, 2, 3, 4, 5, 6]).logits, eager.forward([1, 2, 3, 4, 5, 6]).logits)
    graph.keep(6)
    assert graph.room == 0
    with pytest.raises(UserError, match="has room for"):
        graph.forward([1])


def test_what_was_returned_stays(llama):
    graph = session_of(llama)
    graph.prefill(torch.arange(5))
    first = graph.forward([1, 2])
    logits = first.logits
    kept = logits.clone()
    second = graph.forward([3, 4])
    assert torch.equal(logits, kept)
    assert torch.equal(first.logits, kept)
    assert not torch.equal(second.logits, kept)


def test_what_was_overwritten_is_not_given(llama):
    graph = session_of(llama)
    graph.prefill(torch.arange(5))
    first = graph.forward([1, 2], hidden=True)
    graph.forward([3, 4, 5])
    for read in (lambda: first.logits, lambda: first.hidden, lambda: first.choices, first.tokens):
        with pytest.raises(RuntimeError, match="must be read before the next launch"):
            read()


def test_methods_give_the_same_tokens(llama, prompts):
    captures = Captures(replayed)
    for prompt in prompts[:8]:
        plain = decode(AutoregressiveDecoder(Session(llama)), prompt, limit=40)
        for decoder in (
            AutoregressiveDecoder(session_of(llama, captures)),
            JacobiDecoder(Jacobi(), session_of(llama, captures), 60, 0),
            JacobiDecoder(Jacobi(refill="sliding"), session_of(llama, captures), 60, 0),
        ):
            assert decode(decoder, prompt, limit=40).token_ids == plain.token_ids
    assert captures.count


def test_a_model_that_cannot_be_captured_is_told(llama):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graph = GraphSession(llama, Captures(refuse))
    graph.prefill(torch.arange(5))
    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot .* run it with --engine eager"):
        graph.forward([1])


def test_a_capture_without_memory_is_no_fault_of_the_engine(llama):
    def refuse(run):
        raise torch.OutOfMemoryError("CUDA out of memory")

    graph = GraphSession(llama, Captures(refuse))
    graph.prefill(torch.arange(5))
    with pytest.raises(torch.OutOfMemoryError):
        graph.forward([1])


def test_a_capture_within_a_reply_is_not_timed(tiny):
    """A method is asked again where its time holds a capture, not where only the lead does."""
    family = find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1).resolve())
    calls = []

    class Method(Autoregressive):
        def bind(self, _):
            inner = super().bind(family)

            def decoder(prompt, sampling):
                calls.append(prompt)
                family.captures.count += len(calls) in (2, 5)
                return inner(prompt, sampling)

            return decoder

    cell = SimpleNamespace(label="ar", method=Method())
    answering = Executor(SimpleNamespace(phases=([cell],), family=family), Clock())
    asked = Prompt(torch.tensor([1, 2, 3]), Sampling(), 8, None)
    assert answering.ask(cell, asked).generation is not None
    assert len(calls) == 4  # a lead and a reply, the reply with a capture; both once more
    answering.ask(cell, asked)
    assert len(calls) == 6  # a lead with a capture, a reply


def test_a_gpu_that_is_named_becomes_the_current_one(monkeypatch):
    """Streams and graphs belong to the current device, wherever the weights are."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Runtime("cuda:1", engine="graph", threads=1).resolve().device == "cuda:1"
    assert chosen == ["cuda:1"]
    Runtime("cuda", threads=1).resolve()
    Runtime("cpu", threads=1).resolve()
    with pytest.raises(UserError, match="'cuda:2' is not on this machine"):
        Runtime("cuda:2", threads=1).resolve()
    assert chosen == ["cuda:1"]


@pytest.mark.parametrize("engine", ["graph", "compiled"])
def test_the_engine_needs_a_gpu(engine):
    with pytest.raises(UserError, match=f"--engine {engine} captures CUDA graphs"):
        Runtime("cpu", engine=engine).resolve()


def test_a_run_is_compiled_or_refused(tmp_path):
    """Never called compiled where nothing is."""
    runtime = Runtime("cpu", "bfloat16", engine="compiled", threads=1)
    known = find_family(str(write_checkpoint(tmp_path / "llama")), runtime=runtime)
    assert isinstance(known.session("target"), GraphSession)
    other = find_family(str(write_checkpoint(tmp_path / "cohere", "cohere")), runtime=runtime)
    with pytest.raises(UserError, match=r"'target' .*cohere'. has none; use --engine graph"):
        other.session("target")


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["graph", "compiled"])
def test_captured_passes_agree_with_the_eager_engine(engine):
    runtime = Runtime("cuda", "float32", engine=engine).resolve()
    graph = find_family("mini", runtime=runtime)
    eager = find_family("mini", runtime=Runtime("cuda", "float32").resolve())
    one, other = graph.session("target"), eager.session("target")
    prompt = torch.arange(40, device="cuda")
    for session in (one, other):
        session.prefill(prompt)
    for rows in (1, 16, 7, 1):
        ids = list(range(rows))
        close(one.forward(ids).logits, other.forward(ids).logits)
        for session in (one, other):
            session.keep(1)
    assert graph.captures.count
