"""mt_bench: say what belongs here."""
