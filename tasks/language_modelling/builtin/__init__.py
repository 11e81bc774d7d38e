"""builtin: say what belongs here."""
