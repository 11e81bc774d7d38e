"""Perplexity of texts, and speed on their continuations."""
