"""What several recipes share: batches of examples, losses, exported checkpoints."""
