"""Products on a CPU: every kernel is right, and a trial says which is taken where."""

import time

import pytest
import torch
from families import write_checkpoint
from random_models import KINDS, UNFUSED, tiny_model
from torch import nn

from cllm_bench.engine.family import find_family
from cllm_bench.engine.fused_layers import fused_layers_of
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.products import trial
from cllm_bench.engine.products.kernels import KERNELS, PLAIN, Mkl, OneDnn, Product
from cllm_bench.engine.products.places import places_of
from cllm_bench.engine.products.trial import ROWS, choose_products
from cllm_bench.engine.runtime import ProductChoice, Runtime
from cllm_bench.report.notes import products as told

LLAMA = {"96x32": 4, "32x32": 2, "32x48": 2, "61x32": 1}


class Planted:
    """A kernel that computes as torch does, or is told not to."""

    name = "planted"
    dtypes = (torch.float32, torch.float64)
    most = 64

    def __init__(self, added=0.0, seconds=0.0, wrong_rows=None):
        self.calls: list[int] = []
        self._added, self._seconds, self._wrong = added, seconds, wrong_rows

    def pack(self, weight):
        return weight.clone()

    def product(self, packed, plain, rows):
        def kernel(states, weight, bias):
            assert states.numel() == rows * states.shape[-1]
            self.calls.append(rows)
            time.sleep(self._seconds)
            wrong = self._wrong is None or rows == self._wrong
            return nn.functional.linear(states, weight, bias) + self._added * wrong

        return Product(packed, plain.bias, kernel)


@pytest.fixture
def plant(monkeypatch):
    """Let one kernel be tried, on models of any size; it is said to be fast unless it is timed."""

    def plant(*kernels, faster=0.5):
        monkeypatch.setattr(trial, "KERNELS", kernels)
        monkeypatch.setattr(trial, "LEAST_BYTES", 0)
        if faster is None:
            return

        def times(places, sample, usable, packed):
            shapes = {places[number].shape for number in sample}
            names = {PLAIN: 1.0} | {kernel.name: faster for kernel in usable}
            return [{name: dict.fromkeys(shapes, took) for name, took in names.items()}] * len(ROWS)

        monkeypatch.setattr(trial, "_times", times)

    return plant


def usable(kernel, dtype):
    try:
        kernel.product(kernel.pack(torch.ones(2, 2, dtype=dtype)), Product(None, None), 1)
    except (AttributeError, RuntimeError):
        return False
    return dtype in kernel.dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@torch.inference_mode()
def test_every_kernel_is_right_for_every_number_of_rows(kernel, dtype):
    if not usable(kernel, dtype):
        pytest.skip("not in this build of torch, or not in this precision")
    for outputs, inputs in ((48, 32), (7, 13), (1, 5), (257, 96)):
        weight = torch.randn(outputs, inputs, dtype=dtype)
        packed = kernel.pack(weight)
        for bias in (None, torch.randn(outputs, dtype=dtype)):
            plain = Product(weight, bias)
            for rows in range(1, 71):
                states = torch.randn(1, rows, inputs, dtype=dtype)
                expected = plain.kernel(states, weight, bias)
                own = kernel.product(packed, plain, rows)
                found = own.kernel(states, own.weight, own.bias)
                limit = 16 * torch.finfo(dtype).eps * float(expected.abs().max().clamp(min=1))
                torch.testing.assert_close(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("kernel", [Mkl(64, 64), OneDnn(16, 64)], ids=lambda kernel: kernel.name)
@torch.inference_mode()
def test_a_transposed_weight_is_packed_as_it_is_used(kernel):
    """GPT-2 keeps its weights the other way round."""
    if not usable(kernel, torch.float32):
        pytest.skip("not in this build of torch")
    weight, states = torch.randn(24, 40).t(), torch.randn(1, 3, 24)
    plain = Product(weight, None)
    own = kernel.product(kernel.pack(weight), plain, 3)
    expected = plain.kernel(states, weight, None)
    torch.testing.assert_close(own.kernel(states, own.weight, None), expected)


@pytest.mark.parametrize("kind", [*KINDS, *UNFUSED])
@torch.inference_mode()
def test_all_products_of_a_model_are_replaced(kind, plant, prompts):
    """By the number of rows, and the logits stay."""
    model, planted = fuse(tiny_model(kind)), Planted()
    plant(planted)
    lengths = [prompts[0], prompts[5], torch.arange(64) % 60, torch.arange(65) % 60]
    expected = [model(ids[None]).logits for ids in lengths]
    found = choose_products(model)
    assert set(found.kernels.values()) == {("planted",) * len(ROWS)}
    assert found.copied_bytes == sum(place.nbytes for place in places_of(model)) > 0
    for ids, logits in zip(lengths, expected, strict=True):
        planted.calls.clear()
        close = 1e-5 * float(logits.abs().max())
        torch.testing.assert_close(model(ids[None]).logits, logits, rtol=1e-5, atol=close)
        if fused_layers_of(model):
            used = [] if len(ids) > 64 else [len(ids)] * sum(found.counts.values())
            assert planted.calls == used
        else:
            assert bool(planted.calls) or len(ids) > 64


def test_what_is_slower_is_not_taken(plant):
    model, slow = fuse(tiny_model("llama")), Planted(seconds=0.0005)
    plant(slow, faster=None)
    found = choose_products(model)
    assert found.counts == LLAMA
    assert set(found.kernels.values()) == {(PLAIN,) * len(ROWS)}
    assert found.milliseconds["planted"][0] >= 4.5  # of nine products
    assert found.milliseconds["chosen"] == found.milliseconds[PLAIN]
    assert found.copied_bytes == 0
    assert not list(told({"target": found}))


def test_what_is_hardly_faster_is_not_taken(plant):
    plant(Planted(), faster=0.96)
    assert choose_products(fuse(tiny_model("llama"))).copied_bytes == 0


def test_another_copy_of_a_weight_has_to_gain_more():
    """`one` is the better one in all; `two` takes so much less for a single row."""

    def taken(second):
        times = [{PLAIN: {"s": 1.0}, "one": {"s": 0.5}, "two": {"s": 0.9}} for _ in ROWS]
        times[0]["two"] = {"s": second}
        return trial._fastest(times, "s", {"one", "two"})

    assert taken(0.44) == ("one",) * len(ROWS)
    assert taken(0.42) == ("two", *["one"] * 7)


@pytest.mark.parametrize("wrong", [None, 13])
def test_a_kernel_that_answers_otherwise_is_refused(plant, wrong):
    """Even if only for one number of rows."""
    plant(Planted(added=0.01, wrong_rows=wrong))
    found = choose_products(fuse(tiny_model("llama")))
    assert found.refused == {"planted": "it differs by 0.01"}
    assert not found.copied_bytes


def test_without_the_operations_all_is_plain(monkeypatch):
    """Another release, or a build for another processor."""

    class Nothing:
        name = "nothing"

    monkeypatch.setattr(trial, "LEAST_BYTES", 0)
    monkeypatch.setattr(torch.ops, "mkl", Nothing())
    monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
    found = choose_products(fuse(tiny_model("llama")))
    assert set(found.refused) == {"mkl", "onednn", "onednn-1"}
    assert "_mkl_reorder_linear_weight" in found.refused["mkl"]
    assert not found.kernels


@pytest.mark.parametrize(("dtype", "known"), [(torch.float64, False), (torch.bfloat16, True)])
def test_other_precisions(monkeypatch, dtype, known):
    monkeypatch.setattr(trial, "LEAST_BYTES", 0)
    found = choose_products(fuse(tiny_model("llama").to(dtype)))
    assert found.refused["mkl"] == f"not in {str(dtype).removeprefix('torch.')}"
    assert ("onednn" not in found.refused) is (known and usable(OneDnn(16, 64), dtype))


def test_copies_have_to_fit_into_a_share_of_the_memory(plant, monkeypatch):
    model, planted = fuse(tiny_model("llama")), Planted()
    size = sum(place.nbytes for place in places_of(model))
    plant(planted)
    for free, copied in ((4 * size, size), (4 * size - 1, 0), (None, 0)):
        monkeypatch.setattr(trial, "free_memory", lambda _, free=free: free)
        assert choose_products(model).copied_bytes == copied


def test_a_small_model_and_one_on_another_device_are_left_alone():
    assert choose_products(fuse(tiny_model("llama"))) == ProductChoice(counts=LLAMA)
    assert not places_of(tiny_model("llama").to("meta"))


def test_a_large_model_is_tried_on_its_first_layers(monkeypatch):
    places = places_of(fuse(tiny_model("llama", num_hidden_layers=6)))
    monkeypatch.setattr(trial, "SAMPLE_BYTES", 1)
    assert sorted(places[number].shape for number in trial._sample(places)) == sorted(
        {place.shape for place in places}
    )


@torch.inference_mode()
def test_weights_that_are_loaded_later_are_not_in_the_copies(plant, prompts):
    model, other = fuse(tiny_model("llama")), tiny_model("llama", seed=1)
    plant(Planted())
    choose_products(model)
    model.load_state_dict(other.state_dict())
    for ids in prompts[::5]:
        expected = other(ids[None]).logits
        torch.testing.assert_close(model(ids[None]).logits, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", [Mkl(64, 64), OneDnn(16, 64)], ids=lambda kernel: kernel.name)
def test_passes_of_several_rows_find_the_tokens_of_single_ones(plant, kernel):
    """And these the ones of plain products: in float32 rounding decides nothing here."""
    if not usable(kernel, torch.float32):
        pytest.skip("not in this build of torch")
    plant(kernel)
    replies = []
    for products in ("plain", "auto"):
        runtime = Runtime("cpu", "float32", threads=1, products=products).resolve()
        session = find_family("mini", runtime=runtime).session("target")
        tokens = session.prefill(torch.arange(3, 60)).tokens()
        for _ in range(23):
            tokens += session.forward(tokens[-1:]).tokens()
            session.keep(1)
        replies.append(tokens)
        session.prefill(torch.arange(3, 60))
        assert session.forward(tokens[:12]).tokens() == tokens[1:13]
        session.keep(5)
        assert session.forward(tokens[5:21]).tokens() == tokens[6:22]
    assert replies[0] == replies[1]


@pytest.fixture
def family(tmp_path, plant):
    plant(Planted())
    runtime = Runtime("cpu", "float32", threads=1, products="auto").resolve()
    return find_family(str(write_checkpoint(tmp_path / "llama")), runtime=runtime)


def test_the_choice_is_kept_by_role_and_told(family):
    family.session("target").forward([1, 2])
    found = family.products["target"]
    assert found.copied_bytes
    (line,) = told(family.products)
    assert line.startswith("products of target: planted to 64 rows, the fastest in a trial")
    assert "over plain: 0.50/0.50" in line


def test_a_run_goes_on_with_the_kernels_it_began_with(family, monkeypatch):
    family.model("target")
    stored = family.products["target"]
    monkeypatch.setattr(trial, "_times", None)  # a second trial would fail
    again = family.unloaded()
    again.products["target"] = stored
    again.model("target")
    assert again.products == {"target": stored}
    family.release()
    family.model("target")  # of a later phase


def test_models_of_one_shape_run_alike(family, monkeypatch):
    family.model("target")
    monkeypatch.setattr(trial, "_times", None)
    other = family.unloaded(roles={"other": family.checkpoint("target")})
    other.products.update(family.products)
    other.model("other")
    assert other.products["other"] == family.products["target"]


def test_the_library_runs_as_it_is(family, monkeypatch):
    monkeypatch.setattr(trial, "choose_products", None)
    model = family.plain_model("target")
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_products_are_chosen_on_a_cpu_and_where_they_are_asked_for(family, monkeypatch):
    plain = family.unloaded(runtime=Runtime("cpu", "float32", threads=1))
    plain.model("target")
    assert not plain.products
    assert Runtime("cpu", products="auto", threads=1).resolve().products == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Runtime("cuda", products="auto", threads=1).resolve().products == "plain"
