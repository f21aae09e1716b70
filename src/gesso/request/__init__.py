"""Requests: their fields, checks, presets and versions, and the recipe stored in a picture."""
