"""The training loops and their state."""
