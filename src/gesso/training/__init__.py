"""Training: one loop for any task."""
