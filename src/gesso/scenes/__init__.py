"""Synthetic training pictures: composed from the colour emoji font, with exact captions; gesso-mini learns from them."""
