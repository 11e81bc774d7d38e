"""`python -m cllm_bench`."""

from cllm_bench.cli import main

main()
