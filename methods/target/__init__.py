"""The recipe that trains or fine-tunes a target."""
