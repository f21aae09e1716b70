"""Pipelines: a request and a model become a picture (text or image to image, inpainting, hires fix, upscaling)."""
