"""Prompts as text: parsed into weighted pieces and chunks of token ids, the weights applied (emphasis)."""
