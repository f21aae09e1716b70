"""What changes a model for the length of a request: LoRA and its relatives, textual inversion."""
