"""What one trial does: its spec, its training loop, its checkpoints and its records."""
