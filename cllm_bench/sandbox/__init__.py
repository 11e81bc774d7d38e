"""sandbox: say what belongs here."""
