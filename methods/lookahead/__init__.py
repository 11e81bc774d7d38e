"""lookahead: say what belongs here."""
