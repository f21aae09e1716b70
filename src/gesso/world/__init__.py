"""Synthetic training pictures: scenes of openly licensed drawings in places, with exact captions."""
