"""Colours of pictures that say how theirs are meant (ICC profiles), as sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; printers' profiles have one or two MiB
SAME = 2  # levels to which a profile is taken for sRGB itself, so that such pictures keep every bit


def as_srgb(image: Image.Image) -> Image.Image:
    """RGB, converted from the picture's own profile; RGBA where something is transparent.

    A picture without a profile is taken for sRGB, and so is one whose profile is damaged, too large, or made for other
    channels: it only looks a little different then.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE:
        image = _converted(image, profile)
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), image.mode, "RGB")
        if image.mode == "RGB":
            sample = _sample()
            apart = np.asarray(transform.apply(sample), dtype=np.int16) - np.asarray(sample)
            if np.abs(apart).max() <= SAME:
                return image
        return transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _sample() -> Image.Image:
    """Colours over the whole cube."""
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return Image.fromarray(cube.reshape(len(steps) ** 2, len(steps), 3))
