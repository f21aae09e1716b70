"""The training loop: one, for whatever task it is given."""
