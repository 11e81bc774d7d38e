"""report: say what belongs here."""
