"""How noise is added and taken away: schedules, noise, the denoiser seam, guidance, samplers."""
