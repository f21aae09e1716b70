"""Model families: each release (SD 1.5, SDXL, ...) as one value, loading and saving of models, prompt encoding."""
