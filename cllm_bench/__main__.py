"""`python -m cllm_bench`."""

from cllm_bench.cli.app import main

main()
