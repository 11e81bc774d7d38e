"""testing: say what belongs here."""
