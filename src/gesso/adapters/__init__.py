"""Adapters change a model for the length of a request: LoRA and its relatives, embeddings (textual inversion)."""
