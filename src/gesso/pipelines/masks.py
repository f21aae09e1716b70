"""Masked content "fill": the masked part takes the blurred colours around it, as in A1111."""

from PIL import Image, ImageChops, ImageFilter

from gesso.hints.levels import mask_levels

# (radius, times): the picture without its masked part, blurred by each radius, is composited that many times, the
# widest first, as in A1111.
_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def fill_masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with its masked part filled by the blurred colours around it; near ones count more."""
    keep = ImageChops.invert(mask_levels(mask))
    # Transparent where masked, with premultiplied alpha: a blur then mixes visible colours only.
    visible = Image.composite(image.convert("RGBA").convert("RGBa"), Image.new("RGBa", image.size), keep)
    result = Image.new("RGBA", image.size)
    for radius, times in _LAYERS:
        layer = (visible.filter(ImageFilter.GaussianBlur(radius)) if radius else visible).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(layer)
    return result.convert("RGB")
