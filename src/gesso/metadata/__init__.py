"""Settings inside pictures (PNG info): of any tool, read without trust, removed, copied."""
