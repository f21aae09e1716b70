"""What changes a model while it draws: LoRA and its relatives, textual inversion."""
