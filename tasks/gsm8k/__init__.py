"""gsm8k: say what belongs here."""
