"""gesso's own HTTP API: routes, schemas, the guard in front of them, events, webhooks. Imports no torch."""
