"""engine: say what belongs here."""
