"""gesso-mini, the built-in model: its training data, training tasks and evaluation."""
