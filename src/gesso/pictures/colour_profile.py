"""Converts pictures with an ICC colour profile to sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; printers' profiles have one or two MiB
SAME = 2  # levels to which a profile is taken for sRGB itself, so that such pictures keep every bit
_ERRORS = (ImageCms.PyCMSError, OSError, ValueError)


def as_srgb(image: Image.Image) -> Image.Image:
    """RGB, converted from the picture's own profile; RGBA where something is transparent.

    A picture without a profile is taken for sRGB, and so is one whose profile cannot be followed, see
    `profile_problem`: it only looks a little different then.
    """
    profile, mode = image.info.get("icc_profile"), _mode(image)
    alpha = None
    if _has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    image = image.convert(mode)
    if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE:
        image = _converted(image, profile)
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def profile_problem(image: Image.Image) -> str | None:
    """Why the picture's profile cannot be followed: it is damaged, too large, or made for other channels."""
    profile = image.info.get("icc_profile", b"")
    if profile is None:  # what Pillow makes of one that it cannot unpack
        return "damaged"
    if not isinstance(profile, bytes) or not profile:
        return None
    if len(profile) > MAX_PROFILE:
        return f"{len(profile)} bytes, expected at most {MAX_PROFILE}"
    try:
        _transform(profile, _mode(image))
    except _ERRORS:
        return f"damaged, or not for {_mode(image)}"
    return None


def _mode(image: Image.Image) -> str:
    """The channels that a profile speaks of, once all others are gone."""
    return image.mode if image.mode in ("L", "CMYK") and not _has_alpha(image) else "RGB"


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB")


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        transform = _transform(profile, image.mode)
        if image.mode == "RGB":
            sample = _sample()
            change = np.asarray(transform.apply(sample), dtype=np.int16) - np.asarray(sample)
            if np.abs(change).max() <= SAME:
                return image
        return transform.apply(image)
    except _ERRORS:
        return image


def _sample() -> Image.Image:
    """Colours over the whole cube."""
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return Image.fromarray(cube.reshape(len(steps) ** 2, len(steps), 3))
