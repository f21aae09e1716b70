"""Network architectures: UNet, VAE, CLIP, ControlNet and others, one per file, each a frozen config and a module."""
