"""Train a small draft model for the bundled target, and decode with it (about two minutes)."""

import cllm_bench

trained = cllm_bench.train(
    "draft:layers=2,questions=380,steps=60,held_out=16,evaluate_every=20",
    output="results/example-draft",
    tasks=["spider:train_questions=400"],
)
print(trained.log)

result = cllm_bench.run(
    methods=["speculative"], tasks=["spider"], model=str(trained.folder), limit=20, repeats=1
)
print(result.table)
