"""trajectories: say what belongs here."""
