"""training: say what belongs here."""
