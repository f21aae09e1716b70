"""Fine-tuning on the user's own pictures: data sets, buckets, cached latents, LoRA factors, losses, reports."""
