"""Evaluation of gesso-mini: how well pictures match their prompts, by an object detector and style classifiers."""
