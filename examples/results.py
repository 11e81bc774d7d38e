"""Read stored runs: `python examples/results.py FOLDER…`."""

import sys

import cllm_bench

results = cllm_bench.load_results(*sys.argv[1:])
print(results.summaries[["folder", "task", "method", "score", "speedup", "tokens_per_pass"]])
print(cllm_bench.table(*sys.argv[1:]))
