"""gesso's own HTTP API: `create_app` makes it, `gesso serve` runs it. Needs the extra `serve`; imports no torch."""
