"""What stands under a mask at the start."""

from PIL import Image, ImageChops, ImageFilter

# A1111's way to fill what is masked from what surrounds it: the picture without the masked part, blurred by these
# radii, is laid over itself so many times, the widest first.
_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture whose masked part takes the blurred colours of what surrounds it, nearer ones the more."""
    keep = ImageChops.invert(mask.convert("L"))
    # Transparent where masked, colours times their opacity: a blur then mixes only what is to be seen.
    seen = Image.composite(image.convert("RGBA").convert("RGBa"), Image.new("RGBa", image.size), keep)
    whole = Image.new("RGBA", image.size)
    for radius, times in _LAYERS:
        layer = (seen.filter(ImageFilter.GaussianBlur(radius)) if radius else seen).convert("RGBA")
        for _ in range(times):
            whole.alpha_composite(layer)
    return whole.convert("RGB")
