"""recipes: say what belongs here."""
