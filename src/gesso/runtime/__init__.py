"""Where models run: the engine with its device, number format and resident models."""
