"""core: say what belongs here."""
