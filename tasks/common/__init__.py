"""common: say what belongs here."""
