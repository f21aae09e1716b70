"""The training loop: one for any task."""
