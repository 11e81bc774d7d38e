"""medusa: say what belongs here."""
