"""cllm: say what belongs here."""
