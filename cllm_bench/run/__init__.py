"""run: say what belongs here."""
