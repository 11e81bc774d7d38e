"""cli: say what belongs here."""
