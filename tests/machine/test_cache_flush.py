"""The buffer that empties the caches: how large it is, and that all of it is written."""

from types import SimpleNamespace

import torch

from cllm_bench.machine.cache_flush import LEAST_BYTES, CacheFlush, last_level_bytes


def write_cache(folder, index, size):
    place = folder / f"index{index}"
    place.mkdir(parents=True)
    (place / "size").write_text(f"{size}\n", encoding="ascii")


def test_the_largest_cache_counts(tmp_path):
    assert last_level_bytes(tmp_path) == 0
    for index, size in enumerate(("48K", "2M", "30720K", "?")):
        write_cache(tmp_path, index, size)
    assert last_level_bytes(tmp_path) == 30 * 2**20


def test_the_buffer_is_twice_the_cache(tmp_path):
    assert CacheFlush("cpu", tmp_path).bytes == LEAST_BYTES
    write_cache(tmp_path, 3, "160M")
    assert CacheFlush("cpu", tmp_path).bytes == 320 * 2**20


def test_every_byte_is_written(tmp_path):
    flush = CacheFlush("cpu", tmp_path)
    flush()
    flush()
    assert bool((flush._buffer == 2).all())


def test_a_gpu_tells_the_size_of_its_cache(monkeypatch):
    properties = SimpleNamespace(L2_cache_size=200 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    made = []
    monkeypatch.setattr(torch, "zeros", lambda size, **options: made.append((size, options)))
    assert CacheFlush("cuda:1").bytes == 400 * 2**20
    assert made == [(100 * 2**20, {"dtype": torch.int32, "device": "cuda:1"})]
