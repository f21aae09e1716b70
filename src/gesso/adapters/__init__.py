"""Adapters change a model while it draws: LoRA and its relatives, embeddings (textual inversion)."""
