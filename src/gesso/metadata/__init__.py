"""Settings in the pictures of any tool: read without trusting them; taken out, and carried over."""
