"""Serving: a durable queue of jobs, workers that draw them, and the HTTP API in front of it."""
