"""What earlier commands left: trials, the best of them, and registered models."""
