"""What pictures of any tool say about how they were made, read without trusting them; taken out, and carried over."""
