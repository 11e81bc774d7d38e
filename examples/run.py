"""Measure a CLLM on a few questions, and look at the rows as a data frame."""

import cllm_bench

result = cllm_bench.run(methods=["cllm"], tasks=["spider"], model="mini", limit=20, repeats=1)

print(result.rows.groupby("method")[["decode_seconds", "score"]].mean())
print(f"stored in {result.folder}")
