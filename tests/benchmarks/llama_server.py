"""Serves a GGUF file with llama.cpp until its standard input closes; `llama_cpp.py` starts it.

    python tests/benchmarks/llama_server.py FILE --threads N --context N [--cache f16|f32]

Prints one JSON line when it is ready: the address, versions, and what the processor's kernels were
built for. It is plain decoding of one sequence at a time, and nothing is kept from one prompt to
the next; all else is as llama.cpp has it by default, keys and values in float16 among it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.metadata import version

import xllamacpp


def parameters(file: str, threads: int, context: int, cache: str) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if cache == "f32":
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Its kernel for the processor is made for float16: with float32 a token took twice as long.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_prompt = False
    params.cache_ram_mib = 0  # else the keys and values of earlier prompts are kept aside
    params.n_ctx_checkpoints = 0
    params.ui = params.endpoint_slots = False
    params.verbosity = 0
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--cache", choices=("f16", "f32"), default="f16")
    options = parser.parse_args()

    server = xllamacpp.Server(parameters(**vars(options)))
    ready = {
        "address": server.listening_address,
        "versions": {name: version(name) for name in ("xllamacpp", "gguf")},
        "build": xllamacpp.BUILD_INFO,
        "kernels": " ".join(xllamacpp.get_system_info().replace(" = 1 |", "").split()),
    }
    print(json.dumps(ready), flush=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads what llama.cpp might print
    sys.stdin.read()


if __name__ == "__main__":
    main()
