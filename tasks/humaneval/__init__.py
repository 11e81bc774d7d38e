"""humaneval: say what belongs here."""
