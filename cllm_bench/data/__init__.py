"""data: say what belongs here."""
