"""Checkpoint files: hardened reading, atomic writing, conversion of tensor names between layouts, detection."""
