"""Decoding methods that ship with cllm-bench, and the recipes that train what they need."""
