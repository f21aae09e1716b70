"""Training: one loop, and a task for each network that it trains."""
