"""Fine-tuning of any model on the user's own pictures: data sets, buckets, caches, LoRA factors, losses, reports."""
