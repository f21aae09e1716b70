"""What the commands share: help texts, options and their defaults, progress, JSON, errors in a terminal's words."""
