"""What a ControlNet looks at: hints, made from a picture without a network. Pure functions of pictures."""
