"""language_modelling: say what belongs here."""
