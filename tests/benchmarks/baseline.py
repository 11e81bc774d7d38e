"""How strong is the baseline? The shared loop beside the library's own, and its overhead.

    python tests/benchmarks/baseline.py [--model mini] [--prompts 40] [--repeats 5] [--device auto]

For every prompt, in turn and in alternating order: the `ar` method and `model.generate` with the
same limit, no stop tokens, prefill included in both. Then the share of decode time that the shared
loop spends outside the model's forward pass. The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from cllm_bench.contracts import Sampling, Source
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import device_clock
from cllm_bench.engine.family import find_family
from cllm_bench.engine.family_file import describe_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.machine.environment import machine, versions
from cllm_bench.report.statistics import geometric_interval, geometric_mean
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_tasks.spider.task import Spider

NEW_TOKENS = 48


class TimedModel:
    """A model that notes the time of each of its forward passes, as the session calls them."""

    def __init__(self, model, clock):
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.forward = model.forward  # its signature names the cache
        self.calls: list[float] = []
        self._model, self._clock = model, clock

    def __call__(self, **inputs):
        start = self._clock.seconds()
        output = self._model(**inputs)
        self.calls.append(self._clock.seconds() - start)
        return output


def shared_loop(decoder, prompt, clock):
    return generate(
        decoder,
        prompt,
        sampling=Sampling(),
        max_new_tokens=NEW_TOKENS,
        stop_ids=(),
        clock=clock,
    )


def library_loop(model, prompt, clock):
    start = clock.seconds()
    output = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return clock.seconds() - start, tuple(output[0, len(prompt) :].tolist())


def untouched(location, model):
    """The same weights as the library itself loads and runs them."""
    plain = AutoModelForCausalLM.from_pretrained(location, dtype=model.dtype)
    return plain.to(model.device).eval()


def compare(model, plain, prompts, repeats, clock):
    """Return, for each loop, the median seconds of every prompt."""
    decoder = AutoregressiveDecoder(Session(model))
    times: dict[str, list[float]] = {"ar": [], "generate": []}
    for prompt in prompts:
        ours, theirs = [], []
        for repeat in range(repeats):
            for which in ("ar", "generate") if repeat % 2 else ("generate", "ar"):
                if which == "ar":
                    found = shared_loop(decoder, prompt, clock)
                    ours.append(found.prefill_seconds + found.decode_seconds)
                else:
                    seconds, tokens = library_loop(plain, prompt, clock)
                    theirs.append(seconds)
            if model.dtype == torch.float32:
                assert found.token_ids == tokens
        times["ar"].append(statistics.median(ours))
        times["generate"].append(statistics.median(theirs))
    return times


def overhead(model, make_decoder, prompts, clock):
    """Return the share of decode time outside the model's forward, the median over prompts."""
    timed = TimedModel(model, clock)
    decoder = make_decoder(Session(timed))
    shares = []
    for prompt in prompts:
        timed.calls.clear()
        found = shared_loop(decoder, prompt, clock)
        in_forward = sum(timed.calls[1:])  # the first is the prefill's
        shares.append(1 - in_forward / found.decode_seconds)
    return statistics.median(shares)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()

    threads = options.threads or describe_family(options.model).threads
    runtime = Runtime(options.device, threads=threads).resolve()
    family = find_family(options.model, runtime=runtime)
    model, clock = family.model("target"), device_clock(runtime.device)
    samples = Spider().samples(Source()).samples[: options.prompts]
    prompts = [
        torch.tensor(family.tokenizer(sample.prompt).input_ids, device=runtime.device)
        for sample in samples
    ]
    gc.disable()
    plain = untouched(family.checkpoint("target").location, model)
    compare(model, plain, prompts[:3], 2, clock)  # warm-up
    times = compare(model, plain, prompts, options.repeats, clock)
    ratios = [b / a for a, b in zip(times["ar"], times["generate"], strict=True)]
    interval = geometric_interval(ratios, seed=0)
    settings = Jacobi()
    vocabulary = family.vocabulary("target")
    result = {
        "ar_over_generate": geometric_mean(ratios),
        "ar_over_generate_ci": list(interval) if interval else None,
        "ar_tokens_per_second": NEW_TOKENS * len(prompts) / sum(times["ar"]),
        "generate_tokens_per_second": NEW_TOKENS * len(prompts) / sum(times["generate"]),
        "overhead_ar": overhead(model, AutoregressiveDecoder, prompts, clock),
        "overhead_jacobi": overhead(
            model, lambda s: JacobiDecoder(settings, s, vocabulary, family.pad_id), prompts, clock
        ),
        "prompts": len(prompts),
        "repeats": options.repeats,
        "threads": runtime.threads,
        "machine": machine(runtime.device),
        "versions": versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    low, high = interval or (float("nan"),) * 2
    print(f"ar over model.generate: {result['ar_over_generate']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"time outside the forward pass: ar {result['overhead_ar']:.1%}, ", end="")
    print(f"jacobi {result['overhead_jacobi']:.1%} of decode time")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
