"""speculative: say what belongs here."""
