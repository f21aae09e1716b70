"""Network architectures (UNet, VAE, CLIP, ControlNet, ...), one per file: a frozen config and a module."""
