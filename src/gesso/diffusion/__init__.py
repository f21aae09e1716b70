"""Diffusion: noise schedules, noise sources, samplers, classifier-free guidance, the denoiser interface."""
