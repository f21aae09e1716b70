"""Adapters: LoRA and LyCORIS, textual inversion embeddings, IP-Adapters, attached to a model while it draws."""
