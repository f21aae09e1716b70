"""Renders batches of scenes on the training device.

A scene is laid out as a few numbers (on the CPU, by worker processes) and drawn by matrix products: scaling a glyph and
putting it at its place is one product from the left and one from the right. The pictures are those of `Renderer`, which
draws one at a time, up to a level or two of 255.
Shapes: B pictures, N objects of the table, S pixels a side, G = GLYPH_SIZE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gesso.scenes.glyphs import GLYPH_SIZE
from gesso.scenes.render import LUMA, lightness
from gesso.scenes.scene import Item, Scene
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS

MAX_ITEMS = 4
PAINTS = ("plain", *COLOURS, "grayscale", "silhouette")  # of each glyph, in the order of the painted atlas
PAINT_ROWS = {paint: row for row, paint in enumerate(PAINTS)}
DRAW_BATCH = 256  # pictures drawn at a time: bounds the memory
LANCZOS_LOBES = 3.0


@dataclass(frozen=True)
class SceneLayout:
    """Scenes as numbers.

    glyphs       int32 [B, 4], row of the painted atlas, -1 where there is no further object
    places       float64 [B, 4, 3], x, y and longer side as shares of the picture's side
    backgrounds  uint8 [B, 3]
    """

    glyphs: np.ndarray
    places: np.ndarray
    backgrounds: np.ndarray

    def __len__(self) -> int:
        return len(self.glyphs)

    def part(self, start: int, stop: int) -> "SceneLayout":
        return SceneLayout(self.glyphs[start:stop], self.places[start:stop], self.backgrounds[start:stop])


def lay_out(scenes: Sequence[Scene]) -> SceneLayout:
    """Scenes of at most 4 objects -> SceneLayout. Raises ValueError for an object with both a tint and a style."""
    glyphs = np.full((len(scenes), MAX_ITEMS), -1, dtype=np.int32)
    places = np.zeros((len(scenes), MAX_ITEMS, 3))
    backgrounds = np.array([BACKGROUNDS[scene.background] for scene in scenes], dtype=np.uint8).reshape(-1, 3)
    for row, scene in enumerate(scenes):
        for column, item in enumerate(scene.items):
            glyphs[row, column] = item.thing * len(PAINTS) + _paint_row(item)
            places[row, column] = item.x, item.y, item.size
    return SceneLayout(glyphs, places, backgrounds)


def _paint_row(item: Item) -> int:
    if item.tint is None:
        return PAINT_ROWS[item.style]
    if item.style != "plain":
        raise ValueError(f"an object cannot be both {item.tint} and {item.style}")
    return PAINT_ROWS[item.tint]


class Compositor:
    """Draws laid out scenes from an atlas of glyphs that lies on a device, in every paint.

    glyphs: uint8 [N, G, G, 4], premultiplied RGBA, in the order of the object table. Takes 11 times their memory.
    """

    def __init__(self, glyphs: np.ndarray, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.painted = _painted(glyphs, self.device)
        self._resampling: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, layout: SceneLayout, size: int) -> Tensor:
        """-> float32 [B, 3, size, size] in [-1, 1], channels last in memory, on the compositor's device."""
        with torch.autocast(self.device.type, enabled=False):
            parts = [self._draw(layout.part(i, i + DRAW_BATCH), size) for i in range(0, len(layout), DRAW_BATCH)]
        return torch.cat(parts).div_(127.5).sub_(1.0).permute(0, 2, 1, 3).contiguous(memory_format=torch.channels_last)

    def _draw(self, layout: SceneLayout, size: int) -> Tensor:
        """-> float32 [B, rows, 3, columns], whole levels from 0 to 255"""
        canvas = upload(layout.backgrounds, self.device).float()[:, None, :, None].repeat(1, size, 1, size)
        sides = np.maximum(4, np.rint(layout.places[..., 2] * size)).astype(np.int64)
        if sides.max(initial=0) > size:
            raise ValueError(f"an object of {sides.max()} pixels is larger than the picture of {size}")
        corners = np.rint(layout.places[..., :2] * size - sides[..., None] / 2).astype(np.int64)
        for column in range(MAX_ITEMS):
            rows = np.flatnonzero(layout.glyphs[:, column] >= 0)
            if not len(rows):
                break
            side = upload(sides[rows, column], self.device)
            left, top = (upload(corners[rows, column, axis], self.device) for axis in (0, 1))
            glyphs = self.painted[upload(layout.glyphs[rows, column].astype(np.int64), self.device)].float()
            ink = self._place(glyphs, side, left, top, size)
            alpha = ink[:, :, 3:]
            index = upload(rows, self.device)
            under = canvas[index]
            mixed = torch.minimum(ink, alpha)[:, :, :3] + torch.floor((under * (255 - alpha) + 127) / 255)
            canvas[index] = mixed.clamp_(max=255)
        return canvas

    def _place(self, glyphs: Tensor, side: Tensor, left: Tensor, top: Tensor, size: int) -> Tensor:
        """Scale glyphs [n, G, 4, G] to their sides and put them at their places.  -> [n, rows, 4, columns]

        Both passes round to whole levels, as Pillow's do.
        """
        across = self._weights(side, left, size).transpose(1, 2)
        down = self._weights(side, top, size)
        wide = (glyphs.flatten(1, 2) @ across).add_(0.5).floor_().clamp_(0, 255)  # [n, G * 4, size]
        tall = (down @ wide.unflatten(1, (GLYPH_SIZE, 4)).flatten(2)).add_(0.5).floor_().clamp_(0, 255)
        return tall.unflatten(2, (4, size))

    def _weights(self, side: Tensor, start: Tensor, size: int) -> Tensor:
        """What each row of the picture takes from each row of the glyph.  side, start [n] -> [n, size, G]"""
        if size not in self._resampling:
            table = np.zeros((size + 1, size, GLYPH_SIZE), dtype=np.float32)
            for length in range(1, size + 1):
                table[length, :length] = lanczos(GLYPH_SIZE, length)
            self._resampling[size] = torch.from_numpy(table).to(self.device)
        place = torch.arange(size, device=self.device) - start[:, None]
        inside = (place >= 0) & (place < side[:, None])
        return self._resampling[size][side[:, None], place.clamp(0, size - 1)] * inside[..., None]


def lanczos(size_in: int, size_out: int) -> np.ndarray:
    """Pillow's weights for a new size: a Lanczos kernel of three lobes, widened where the picture shrinks.

    -> float64 [size_out, size_in], rows sum to 1.
    """
    scale = size_in / size_out
    width = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((centres - LANCZOS_LOBES * width + 0.5).astype(int), 0)
    last = np.minimum((centres + LANCZOS_LOBES * width + 0.5).astype(int), size_in)
    taps = np.arange(size_in)
    x = (taps - centres[:, None] + 0.5) / width
    weights = np.where(np.abs(x) < LANCZOS_LOBES, np.sinc(x) * np.sinc(x / LANCZOS_LOBES), 0.0)
    weights *= (taps >= first[:, None]) & (taps < last[:, None])
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def upload(numbers: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; the copy to a GPU does not wait for the work before it."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _painted(glyphs: np.ndarray, device: torch.device) -> Tensor:
    """Every glyph in every paint.  uint8 [N, G, G, 4] -> uint8 [N * paints, G, 4, G], rows, channels, columns"""
    painted = torch.empty((len(glyphs), len(PAINTS), GLYPH_SIZE, 4, GLYPH_SIZE), dtype=torch.uint8, device=device)
    middles = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=device)[:, None, None, :]
    dark, light = middles * 0.4, middles + 0.45 * (255 - middles)
    luma = torch.from_numpy(LUMA).to(device)
    for row, glyph in enumerate(glyphs):
        plain = torch.tensor(glyph, device=device).float()
        rgb, alpha = plain[..., :3], plain[..., 3:]
        share = torch.from_numpy(lightness(glyph).astype(np.float32)).to(device)
        ramp = torch.where(
            share < 0.5, dark + (middles - dark) * share * 2, middles + (light - middles) * (share * 2 - 1)
        )
        tinted = (ramp * (alpha / 255)).round()
        grey = (rgb @ luma).round()[..., None].expand_as(rgb)
        colours = torch.cat([rgb[None], tinted, grey[None], torch.zeros_like(rgb)[None]])
        whole = torch.cat([colours, alpha.expand(len(PAINTS), -1, -1, -1)], dim=-1)
        painted[row] = whole.clamp_(0, 255).to(torch.uint8).permute(0, 1, 3, 2)
    return painted.flatten(0, 1)
