"""Serving: a durable queue of jobs, its store, files, keys and settings, and the workers that draw them."""
