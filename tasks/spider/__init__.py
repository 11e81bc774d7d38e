"""spider: say what belongs here."""
