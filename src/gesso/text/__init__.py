"""Prompt text: parses prompts into weighted pieces and chunks of token ids, and applies the weights (emphasis)."""
