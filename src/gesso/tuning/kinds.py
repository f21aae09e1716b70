"""The kinds of training, for the settings and for the command line, which knows them before it imports torch."""

KINDS = ("lora", "full", "embedding", "controlnet", "distil")
