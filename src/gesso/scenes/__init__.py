"""Synthetic training pictures with exact captions, composed from the colour emoji font, for gesso-mini."""
