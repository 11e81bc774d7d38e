#!/usr/bin/env bash
# Makes the GPU rows of the reference results in one call, on one CUDA device:
#
#     tests/benchmarks/gpu_rows.sh [OUTPUT] [WORK]
#
# OUTPUT (results/reference) gets the runs with their manifests; WORK (build/gpu) the family that is
# trained on the way. Every step resumes, so where a command may only run for so long, repeat the
# call until it says "done". About 30 minutes on an H100 by estimate: nobody has run it yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-results/reference}
work=${2:-build/gpu}
bench() { python -m cllm_bench "$@"; }

# The package must be known to Python: its methods and tasks enter by entry points.
python -c "import cllm_bench_methods" 2>/dev/null ||
  python -m pip install --quiet --no-deps --no-build-isolation --editable .

methods=(
  --method jacobi --method cllm --method cllm:refill=sliding
  --method lookahead --method cllm:decoding=lookahead --method prompt_lookup
  --method speculative --method medusa --method hf_generate --method hf_assisted
)

# 1. The bundled family, in both precisions.
for dtype in bfloat16 float32; do
  bench run --model mini --task spider "${methods[@]}" \
    --device cuda --dtype "$dtype" --output "$output/gpu-mini-$dtype"
done

# 2. A family of about 110M parameters, trained end to end on the same generated questions.
family="$work/large"
train() { bench train "$1" --model "$2" --task spider --data built-in --device cuda --output "$family"; }
train "target:init=scratch,hidden=768,layers=12,heads=12,feed_forward=3072,vocabulary=768,positions=2048,steps=2000,tokens=32768,learning_rate=0.0006,precision=bf16,prompt_weight=0.1" mini
train "cllm:questions=16000,states=online,guess=pad,copies=4,iterations=2,ar_weight=3,steps=4000,tokens=16384,learning_rate=0.0003,precision=bf16,attention=sdpa,held_out=48,evaluate_every=500" "$family"
train "draft:questions=16000,layers=2,steps=1500,tokens=16384,learning_rate=0.0006,precision=bf16" "$family"
train "medusa:questions=16000,steps=1500,tokens=16384,precision=bf16" "$family"
bench run --model "$family" --data built-in --task spider "${methods[@]}" \
  --device cuda --dtype bfloat16 --output "$output/gpu-large-bfloat16"
bench run --model "$family" --data built-in --task spider "${methods[@]}" --engine graph \
  --device cuda --dtype bfloat16 --output "$output/gpu-large-bfloat16-graph"

# 3. A Llama of the shape of a 7B model with random weights: how near the baseline is to the memory's
# bandwidth, by every engine, and what passes of 1 to 256 rows cost.
shape="$work/llama-7b"
[ -e "$shape/config.json" ] || python tests/benchmarks/random_llama.py "$shape"
for engine in eager graph compiled; do
  bench run --model "$shape" --data built-in --task spider:max_new_tokens=128 --limit 10 \
    --method ar --method hf_generate --method jacobi --engine "$engine" \
    --device cuda --dtype bfloat16 --output "$output/gpu-7b-$engine"
  for model in "$shape" "$family"; do
    profile="$output/gpu-$(basename "$model")-profile-$engine"
    [ -e "$profile" ] ||
      bench profile --model "$model" --engine "$engine" --device cuda --dtype bfloat16 --output "$profile"
  done
done
echo done
