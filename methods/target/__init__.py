"""target: say what belongs here."""
