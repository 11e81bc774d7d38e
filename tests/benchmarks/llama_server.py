"""Serves a GGUF file with llama.cpp until its standard input closes; `llama_cpp.py` starts it.

    python tests/benchmarks/llama_server.py FILE --threads N --context N

Prints one JSON line when it is ready: the address, versions, and what the processor's kernels were
built for. It is plain decoding of one sequence at a time: float32 keys and values, and nothing kept
from one prompt to the next.
"""

from __future__ import annotations

import argparse
import json
import sys

import xllamacpp


def parameters(file: str, threads: int, context: int) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
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
    options = parser.parse_args()

    server = xllamacpp.Server(parameters(options.file, options.threads, options.context))
    ready = {
        "address": server.listening_address,
        "xllamacpp": xllamacpp.__version__,
        "llama_cpp": xllamacpp.BUILD_INFO,
        "kernels": xllamacpp.get_system_info().strip(" |"),
    }
    print(json.dumps(ready), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
