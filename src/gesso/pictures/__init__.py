"""Pictures on disk: their formats and chunks, the texts inside them, and reading them without trusting the file."""
