"""Training: one loop, for whatever task it is given."""
