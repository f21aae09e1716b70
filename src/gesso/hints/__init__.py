"""ControlNet preprocessors: make a hint (control image) from a picture, without a network. Pure functions."""
