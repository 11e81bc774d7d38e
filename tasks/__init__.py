"""Tasks that ship with cllm-bench, one file each, with the files that only they need."""
