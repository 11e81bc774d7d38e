"""ablation: say what belongs here."""
