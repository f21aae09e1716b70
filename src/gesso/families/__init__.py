"""Releases of models: each as one value, and the loading and saving of whole models."""
