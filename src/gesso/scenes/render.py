"""Renders scenes from glyphs, one picture at a time."""

import numpy as np
from PIL import Image

from gesso.scenes.glyphs import GLYPH_SIZE
from gesso.scenes.scene import Item, Scene
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def lightness(glyph: np.ndarray) -> np.ndarray:
    """How light each point of a glyph is among the glyph's own: 0 darkest, 0.5 its median, 1 lightest.

    glyph uint8 [H, W, 4], premultiplied -> float32 [H, W, 1]. Stretched over the 5th to 95th percentile of the ink.
    """
    alpha = glyph[..., 3:].astype(np.float32) / 255
    ink = alpha[..., 0] > 0.5
    luma = (glyph[..., :3].astype(np.float32) @ LUMA) / np.maximum(alpha[..., 0], 1e-3)
    low, high = np.percentile(luma[ink], (5, 95))
    share = np.clip((luma - low) / max(high - low, 40.0), 0, 1)[..., None]  # 40: a flat glyph keeps one flat colour
    return share ** (np.log(0.5) / np.log(np.clip(np.median(share[ink]), 0.1, 0.9)))


def tinted(glyph: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Repaint a glyph along a ramp from a dark shade over the colour to a light one, by its own light and dark.

    glyph uint8 [H, W, 4], premultiplied -> the same. The median of its lightness comes out as the colour itself: a red
    skull is red, not pink.
    """
    alpha = glyph[..., 3:].astype(np.float32) / 255
    share = lightness(glyph)
    middle = np.array(colour, dtype=np.float32)
    dark, light = middle * 0.4, middle + 0.45 * (255 - middle)
    rgb = np.where(share < 0.5, dark + (middle - dark) * share * 2, middle + (light - middle) * (share * 2 - 1))
    return np.concatenate([rgb * alpha, alpha * 255], axis=2).round().clip(0, 255).astype(np.uint8)


def grey(glyph: np.ndarray) -> np.ndarray:
    """A glyph without its colours.  uint8 [H, W, 4], premultiplied -> the same"""
    luma = (glyph[..., :3].astype(np.float32) @ LUMA).round().astype(np.uint8)
    return np.concatenate([np.repeat(luma[..., None], 3, axis=2), glyph[..., 3:]], axis=2)


def silhouette(glyph: np.ndarray) -> np.ndarray:
    """A glyph's outline filled with black.  uint8 [H, W, 4], premultiplied -> the same"""
    return np.concatenate([np.zeros_like(glyph[..., :3]), glyph[..., 3:]], axis=2)


class Renderer:
    """Draws scenes from an atlas of glyphs; keeps scaled and tinted glyphs, since few sizes come up again and again.

    glyphs: uint8 [number of objects, 128, 128, 4], premultiplied RGBA, in the order of the object table.
    """

    def __init__(self, glyphs: np.ndarray, max_kept: int = 20_000) -> None:
        self.glyphs = glyphs
        self.max_kept = max_kept
        self._painted: dict[tuple[int, str | None, str], np.ndarray] = {}
        self._scaled: dict[tuple[int, str | None, str, int], np.ndarray] = {}

    def __call__(self, scene: Scene, size: int) -> np.ndarray:
        """-> uint8 [size, size, 3]"""
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        canvas[:] = BACKGROUNDS[scene.background]
        for item in scene.items:
            self._paste(canvas, item, size)
        return canvas

    def _paste(self, canvas: np.ndarray, item: Item, size: int) -> None:
        side = max(4, round(item.size * size))
        ink = self._glyph(item, side)
        left, top = round(item.x * size - side / 2), round(item.y * size - side / 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
        if x0 >= x1 or y0 >= y1:
            return
        part = ink[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.uint16)
        under = canvas[y0:y1, x0:x1].astype(np.uint16)
        mixed = part[..., :3] + (under * (255 - part[..., 3:]) + 127) // 255
        canvas[y0:y1, x0:x1] = np.minimum(mixed, 255).astype(np.uint8)

    def _glyph(self, item: Item, side: int) -> np.ndarray:
        key = (item.thing, item.tint, item.style, side)
        scaled = self._scaled.get(key)
        if scaled is None:
            if len(self._scaled) >= self.max_kept:
                self._scaled.clear()
            image = Image.fromarray(self._paint(item), "RGBa")
            scaled = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0))
            # Lanczos overshoots: without this a premultiplied colour can exceed its alpha and sparkle.
            scaled = np.minimum(scaled, scaled[..., 3:])
            self._scaled[key] = scaled
        return scaled

    def _paint(self, item: Item) -> np.ndarray:
        key = (item.thing, item.tint, item.style)
        painted = self._painted.get(key)
        if painted is None:
            painted = self.glyphs[item.thing]
            if item.tint is not None:
                painted = tinted(painted, COLOURS[item.tint])
            if item.style == "grayscale":
                painted = grey(painted)
            elif item.style == "silhouette":
                painted = silhouette(painted)
            assert painted.shape == (GLYPH_SIZE, GLYPH_SIZE, 4)
            self._painted[key] = painted
        return painted
