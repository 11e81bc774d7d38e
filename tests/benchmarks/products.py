"""What chosen products gain on a CPU: passes and `ar` with the plain ones and with the fastest.

    python tests/benchmarks/products.py [--models mini 384x5 512x8] [--threads 2] [--turns 40]

A model is the target of a bundled family, or WIDTHxLAYERS: a Llama of that shape with random
weights, heads of 64 and 768 words. Both variants of a model take turns in one process, in
alternating order, 200 tokens cached; the last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cllm_bench.contracts import Sampling
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.attention import GROUPED, register
from cllm_bench.engine.clock import device_clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.products.trial import choose_products
from cllm_bench.engine.runtime import ProductChoice, Runtime
from cllm_bench.engine.session import Session
from cllm_bench.machine.environment import machine, versions
from cllm_bench.machine.roofline import cache_bytes, read_bandwidth, weight_bytes
from cllm_bench.report.notes import products
from cllm_bench_methods.ar import AutoregressiveDecoder

ROWS = (1, 5, 12, 16, 32)
CONTEXT = 200
NEW_TOKENS = 48
HEAD = 64
VOCABULARY = 768


def plain_model(name: str, threads: int) -> PreTrainedModel:
    width, x, layers = name.partition("x")
    if not (x and width.isdigit() and layers.isdigit()):
        runtime = Runtime("cpu", "float32", threads=threads).resolve()
        return find_family(name, runtime=runtime).model("target")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=int(width),
        num_hidden_layers=int(layers),
        num_attention_heads=int(width) // HEAD,
        intermediate_size=-(-int(width) * 5 // 2 // HEAD) * HEAD,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    register()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation(GROUPED)
    return fuse(model)


class Variant:
    """A model with its products, and what its passes took."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.session = Session(model)
        self.decoder = AutoregressiveDecoder(Session(model))
        self.passes: dict[int, list[float]] = {rows: [] for rows in ROWS}
        self.tokens: list[float] = []  # seconds for each

    def time_pass(self, rows: int) -> None:
        start = time.perf_counter()
        self.session.forward([1] * rows).tokens()
        self.passes[rows].append(time.perf_counter() - start)
        self.session.keep(0)

    def decode(self, prompt: torch.Tensor) -> list[int]:
        found = generate(
            self.decoder,
            prompt,
            sampling=Sampling(),
            max_new_tokens=NEW_TOKENS,
            stop_ids=(),
            clock=device_clock("cpu"),
        )
        self.tokens.append(found.decode_seconds / (NEW_TOKENS - 1))
        return list(found.token_ids)


def compare(name: str, threads: int, turns: int) -> dict[str, object]:
    """Time both variants of a model in turn."""
    plain, packed = (plain_model(name, threads) for _ in range(2))
    start = time.perf_counter()
    choice = choose_products(packed)
    trial = time.perf_counter() - start
    variants = {"plain": Variant(plain), "auto": Variant(packed)}
    prompt = torch.arange(CONTEXT) % VOCABULARY
    for variant in variants.values():
        variant.session.prefill(prompt)
    order = list(variants.values())
    for _ in range(turns):
        order.reverse()
        for rows in ROWS:
            for variant in order:
                variant.time_pass(rows)  # the other variant's weights were in the caches
                variant.passes[rows].pop()
                variant.time_pass(rows)
    replies = []
    for _ in range(max(3, turns // 8)):
        order.reverse()
        replies += [variant.decode(prompt) for variant in order]
    roof = read_bandwidth("cpu", weight_bytes(plain))
    moved = weight_bytes(plain) + (CONTEXT + NEW_TOKENS / 2) * cache_bytes(plain)
    return {
        "model": name,
        "megabytes": weight_bytes(plain) / 1e6,
        "trial_seconds": trial,
        "milliseconds": {
            kind: {rows: 1000 * statistics.median(took) for rows, took in each.passes.items()}
            for kind, each in variants.items()
        },
        "tokens_per_second": {
            kind: 1 / statistics.median(each.tokens) for kind, each in variants.items()
        },
        "read_gigabytes_per_second": roof and roof / 1e9,
        "share": {
            kind: roof and moved / statistics.median(each.tokens) / roof
            for kind, each in variants.items()
        },
        "same_replies": len(set(map(tuple, replies))) == 1,
        "choice": told(choice),
    }


def told(choice: ProductChoice) -> str:
    return next(products({"target": choice}), "all plain")


def show(found: dict) -> None:
    print(
        f"\n{found['model']}: {found['megabytes']:.1f} MB, trial {found['trial_seconds']:.2f} s; "
        f"{found['choice']}; the same replies: {found['same_replies']}"
    )
    print("| products |" + "".join(f" {rows} rows |" for rows in ROWS) + " ar tokens/s | share |")
    print("|---" * (len(ROWS) + 3) + "|")
    for kind, passes in found["milliseconds"].items():
        cells = [f"{took:.2f} ms" for took in passes.values()]
        cells += [f"{found['tokens_per_second'][kind]:,.0f}", f"{found['share'][kind]:.0%}"]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    plain, auto = found["milliseconds"].values()
    gains = [f"{plain[rows] / auto[rows]:.2f}×" for rows in ROWS]
    speed = found["tokens_per_second"]
    print("| gain | " + " | ".join(gains) + f" | {speed['auto'] / speed['plain']:.2f}× | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mini", "384x5", "512x8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    with torch.inference_mode():
        for name in options.models:
            found.append(compare(name, options.threads, options.turns))
            show(found[-1])
    about = {"machine": vars(machine("cpu")), "versions": versions(), "threads": options.threads}
    print(json.dumps(about | {"models": found}))


if __name__ == "__main__":
    main()
