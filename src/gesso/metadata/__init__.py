"""Settings inside pictures: of any tool (PNG info), read without trust, removed, copied."""
