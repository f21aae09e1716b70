"""The built-in model's own world: what it learns from, how it is trained, and how it is judged."""
