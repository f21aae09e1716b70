"""Synthetic training pictures: composed from the colour emoji font, with exact captions, for gesso-mini."""
