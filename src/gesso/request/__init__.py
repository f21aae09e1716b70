"""What is asked for: the request with its parts, checks, presets and versions, and the recipe that a picture keeps."""
