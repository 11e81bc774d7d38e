"""results: say what belongs here."""
