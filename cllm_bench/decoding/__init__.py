"""decoding: say what belongs here."""
