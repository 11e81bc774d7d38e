"""Decoding methods that ship with cllm-bench, one file each."""
