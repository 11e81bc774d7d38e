"""judge: say what belongs here."""
