"""Renders scenes in other styles: the training pictures of the style LoRAs that come with gesso.

A style keeps what a prompt can ask for: objects, numbers, places, tints and backgrounds. It must also get through the
autoencoder of a small model, so its strokes are some two pixels wide at 64 x 64; blocks of pixel art would be smoothed
away there (docs/log.md).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from gesso.scenes.glyphs import GLYPH_SIZE
from gesso.scenes.render import LUMA, Renderer, tinted
from gesso.scenes.scene import PART_SIZE, Item, Scene
from gesso.scenes.vocabulary import COLOURS

Draw = Callable[[np.ndarray, str | None, bool, bool], np.ndarray]
"""(glyph uint8 [128, 128, 4] premultiplied, tint, drawn large, on black) -> the same glyph in a style"""

INK = np.array((20.0, 20.0, 20.0))
LARGE = (1 + PART_SIZE) / 2.5  # share of the side from which an object has room for lines within its outline


def line_art(glyph: np.ndarray, tint: str | None, large: bool, on_black: bool) -> np.ndarray:
    """Lines on white: the outline and, in a large object, the borders of its dark parts. A tint colours the lines."""
    alpha = glyph[..., 3] / 255
    lines = 1 - ramp(blurred(alpha, 4.2), 0.88, 0.96)
    if large:
        tone = tone_of(glyph, 2.5)
        low, high = tone_range(tone, alpha)
        if high - low > 0.15:
            dark = blurred(tone < (low + high) / 2, 3.0)
            lines = np.maximum(lines, 1 - ramp(np.abs(dark - 0.5), 0.26, 0.36))
    return premultiplied(255 + (ink_of(tint) - 255) * lines[..., None], alpha)


def comic(glyph: np.ndarray, tint: str | None, large: bool, on_black: bool) -> np.ndarray:
    """The object a little smaller, a thick black line around it; white on black."""
    painted = glyph if tint is None else tinted(glyph, COLOURS[tint])
    margin, width = (7, 5.0) if large else (9, 6.5)
    side = GLYPH_SIZE - 2 * margin
    small = np.asarray(Image.fromarray(painted, "RGBa").resize((side, side), Image.Resampling.LANCZOS))
    framed = np.pad(np.minimum(small, small[..., 3:]), ((margin, margin), (margin, margin), (0, 0))).astype(np.float64)
    line = ramp(blurred(framed[..., 3] / 255, width), 0.05, 0.12)[..., None]
    ink = 255 - INK if on_black else INK
    behind = np.concatenate([np.broadcast_to(ink, framed[..., :3].shape), np.full_like(line, 255.0)], axis=2) * line
    return (framed + behind * (1 - framed[..., 3:] / 255)).round().clip(0, 255).astype(np.uint8)


def woodcut(glyph: np.ndarray, tint: str | None, large: bool, on_black: bool) -> np.ndarray:
    """Dark parts printed in one ink, light parts white. A tint colours the ink; on black the print is a negative."""
    alpha = glyph[..., 3] / 255
    tone = tone_of(glyph, 2.0)
    low, high = tone_range(tone, alpha)
    dark = ramp(blurred(tone < (low + high) / 2, 2.0), 0.42, 0.58) if high - low > 0.12 else np.ones_like(alpha)
    printed = np.maximum(dark, 1 - ramp(blurred(alpha, 3.2), 0.8, 0.92))
    paper, ink = np.full(3, 255.0), ink_of(tint)
    if on_black and tint is None:
        paper, ink = ink, paper
    return premultiplied(paper + (ink - paper) * printed[..., None], alpha)


STYLES: dict[str, Draw] = {"line-art": line_art, "comic": comic, "woodcut": woodcut}


class StyledRenderer(Renderer):
    """Draws scenes in one of STYLES; a scene's own style (silhouette, grayscale) is not looked at."""

    def __init__(self, glyphs: np.ndarray, style: str, max_kept: int = 20_000) -> None:
        super().__init__(glyphs, max_kept)
        self.draw = STYLES[style]

    def __call__(self, scene: Scene, size: int) -> np.ndarray:
        on = "on black" if scene.background == "black" else ""
        items = (replace(item, style=f"{'large' if item.size >= LARGE else ''} {on}") for item in scene.items)
        return super().__call__(replace(scene, items=tuple(items)), size)

    def _paint(self, item: Item) -> np.ndarray:
        key = (item.thing, item.tint, item.style)
        if key not in self._painted:
            large, on_black = "large" in item.style, "on black" in item.style
            self._painted[key] = self.draw(self.glyphs[item.thing], item.tint, large, on_black)
        return self._painted[key]


def ink_of(tint: str | None) -> np.ndarray:
    return INK if tint is None else np.array(COLOURS[tint], np.float64)


def tone_of(glyph: np.ndarray, radius: float) -> np.ndarray:
    """How light the glyph is around each point, 0 to 1; what is clear does not count.  -> [128, 128]"""
    alpha = blurred(glyph[..., 3] / 255, radius)
    return blurred(glyph[..., :3] @ LUMA / 255, radius) / np.maximum(alpha, 1e-3)


def tone_range(tone: np.ndarray, alpha: np.ndarray) -> tuple[float, float]:
    """The dark and the light end of a glyph's tones, less a little of both."""
    visible = tone[alpha > 0.5]
    low, high = np.percentile(visible, (8, 92)) if len(visible) else (0.0, 0.0)
    return float(low), float(high)


def blurred(values: np.ndarray, radius: float) -> np.ndarray:
    """[H, W] in [0, 1], nothing around it -> the same; radius is the deviation of a Gaussian in pixels"""
    image = Image.fromarray(np.pad(values * 255, GLYPH_SIZE // 8).round().astype(np.uint8), "L")
    edge = GLYPH_SIZE // 8
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float64) / 255
    return soft[edge:-edge, edge:-edge]


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, a line between."""
    return np.clip((values - low) / (high - low), 0, 1)


def premultiplied(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """colour [H, W, 3] in [0, 255], alpha [H, W] in [0, 1] -> uint8 [H, W, 4]"""
    shown = np.concatenate([colour * alpha[..., None], 255 * alpha[..., None]], axis=2)
    return shown.clip(0, 255).round().astype(np.uint8)
