"""Lines of a picture, white on black: canny, soft edges, line art, scribbles.

Shapes: H rows, W columns of pixels of 8 bits. The filters are OpenCV's, since the published ControlNets were trained on
what it gives.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gesso.hints.opencv import opencv

FAINTEST_EDGE = 16.0  # levels a pixel; where a picture has nothing steeper, its noise is not made to look like edges
FAINTEST_LINE = 16.0  # levels below the surroundings


def canny(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """Thin edges (Canny 1986), as `cv2.Canny` finds them in RGB: the channel that changes most decides.

    low, high  thresholds of |dx| + |dy| of 3x3 Sobel filters: edges begin above high and go on above low; the
               greater of the two is high
    """
    cv2 = opencv("canny")
    return _white_on_black(cv2.Canny(np.array(image), settings["low"], settings["high"]))


def soft_edge(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """How steeply the picture changes: a stand-in for HED and PiDiNet, which are networks.

    The length of the gradient (Scharr) after a Gaussian of sigma, the greatest of the channels, by its 99th percentile.
    steps: so many grey levels only, as the "safe" ways of other tools, so that a faint picture does not shine through;
    0: all.
    """
    cv2 = opencv("softedge")
    smooth = cv2.GaussianBlur(np.array(image, dtype=np.float32), (0, 0), settings["sigma"])
    across, down = (cv2.Scharr(smooth, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1)))
    steepness = np.hypot(across, down).max(axis=2)
    edges = (steepness / max(FAINTEST_EDGE, np.percentile(steepness, 99))).clip(0, 1)
    if steps := settings["steps"]:
        edges = np.floor(edges * (steps + 1)).clip(0, steps) / steps
    return _white_on_black((edges * 255).round().astype(np.uint8))


def line_art(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """What is darker than its surroundings in every channel: pencil and ink, and the dark contours of a photograph.

    The surroundings are a Gaussian of sigma; the median of what is more than `threshold` levels darker becomes middle
    grey. What A1111 calls lineart_standard.
    """
    cv2 = opencv("lineart")
    levels = np.array(image, dtype=np.float32)
    darker = (cv2.GaussianBlur(levels, (0, 0), settings["sigma"]) - levels).min(axis=2).clip(0, 255)
    lines = darker[darker > settings["threshold"]]
    middle = max(FAINTEST_LINE, float(np.median(lines)) if lines.size else 0.0)
    return _white_on_black((darker / middle * 127).clip(0, 255).astype(np.uint8))


def scribble(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """Broad strokes: a difference of Gaussians of 0.5 and of sigma, cut at a threshold (after Winnemöller 2011, XDoG).

    White where twice the difference, whole levels, is above `threshold`. What A1111 calls scribble_xdog.
    """
    cv2 = opencv("scribble")
    levels = np.array(image, dtype=np.float32)
    fine, coarse = (cv2.GaussianBlur(levels, (0, 0), sigma) for sigma in (0.5, settings["sigma"]))
    bright = (255 - (coarse - fine).min(axis=2)).clip(0, 255).astype(np.uint8)
    return _white_on_black(
        np.where(2 * (255 - bright.astype(np.int32)) > settings["threshold"], 255, 0).astype(np.uint8)
    )


def _white_on_black(grey: NDArray[np.uint8]) -> Image.Image:
    """[H, W] -> RGB"""
    return Image.fromarray(grey).convert("RGB")
