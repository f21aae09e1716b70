"""Hints: what a ControlNet looks at, made from a picture without a network. Pure functions of pictures."""
