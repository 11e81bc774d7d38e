"""machine: say what belongs here."""
