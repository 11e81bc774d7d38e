"""Shared parts of the recipes: batches of examples, losses, exported checkpoints."""
