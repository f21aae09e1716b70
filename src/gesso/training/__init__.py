"""The training loop for any task: optimiser, EMA, checkpoints, mixed precision, data parallelism."""
