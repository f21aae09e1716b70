"""Draws batches of laid out scenes on the training device.

A scene is a few numbers (made on the CPU, by worker processes); pictures are drawn together, kind of background by kind
and object by object. A picture depends on its own numbers alone, not on those drawn beside it.
Shapes: B pictures, N = MAX_ITEMS, L looks, T objects of the table, G side of their drawings, H W rows and columns.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.world.backgrounds import draw_rain, draw_snowfall, luma, paint_background
from gesso.world.filters import FILTERS
from gesso.world.scene import (
    BACKGROUNDS,
    COLOURS,
    GROUNDED,
    LOOKS,
    MAX_ITEMS,
    OUTDOORS,
    STYLES,
    TIMES,
    WEATHERS,
    SceneLayout,
)

DRAW_PIXELS = {"cpu": 2**20, "cuda": 2**27}  # of the pictures that are drawn at a time: bounds the memory
SHARPER = 1.4  # a drawing is taken from the smallest level at least this many times as large as it appears
SMALLEST_LEVEL = 16
LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.94, 0.88), "night": (0.84, 0.87, 0.96)}  # on the objects
FLAT = 45 / 255  # contrast of a drawing that a tint does not raise: a flat drawing keeps one flat colour
TINTS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]] = {
    name: (
        (round(0.45 * r), round(0.45 * g), round(0.45 * b)),
        (r, g, b),
        (round(r + 0.45 * (255 - r)), round(g + 0.45 * (255 - g)), round(b + 0.45 * (255 - b))),
    )
    for name, (r, g, b) in COLOURS.items()
} | {
    "black": ((4, 4, 6), (44, 44, 48), (140, 140, 146)),
    "white": ((118, 122, 132), (240, 241, 244), (255, 255, 255)),
}
"""What a tint makes of the dark, middle and light tones of a drawing."""
RIMS = {"black": (104, 104, 112), "white": (176, 182, 194)}
"""A soft rim keeps black and white objects apart from a ground of their colour."""


def to_uint8(pixels: Tensor) -> np.ndarray:
    """float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3] in host memory"""
    levels = pixels.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class Compositor:
    """Draws laid out scenes from an atlas of drawings that lies on a device.

    pixels: uint8 [L, T, G, G, 4], premultiplied RGBA, looks in the order of LOOKS, objects in that of their table.
    present: bool [L, T], which drawings there are; where one is missing the first look is drawn. Read from the pixels
    where it is not given.
    symbols: bool [T], objects that cast no shadow; none where it is not given.
    Takes about twice the memory of the pixels. Raises ValueError for arrays whose shapes do not belong together.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        device: str | torch.device = "cpu",
        present: np.ndarray | None = None,
        symbols: np.ndarray | None = None,
    ) -> None:
        self.device = torch.device(device)
        looks, count, side = pixels.shape[:3]
        if pixels.ndim != 5 or pixels.shape[2:] != (side, side, 4) or looks != len(LOOKS) or not count:
            raise ValueError(f"pixels of shape {pixels.shape}, expected [{len(LOOKS)}, T, G, G, 4]")
        for name, given, shape in (("present", present, (looks, count)), ("symbols", symbols, (count,))):
            if given is not None and np.shape(given) != shape:
                raise ValueError(f"{name} of shape {np.shape(given)}, expected {shape}")
        if present is None:
            present = pixels[..., 3].max(axis=(2, 3)) > 0
        rows = np.arange(looks * count).reshape(looks, count)
        self._rows = np.where(present, rows, rows[:1])
        self._symbols = np.zeros(count, dtype=bool) if symbols is None else np.asarray(symbols, dtype=bool)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self._levels = _scaled_atlas(pixels.reshape(-1, side, side, 4), self.device)
            self._sides = np.array([level.shape[-1] for level in self._levels])
            middle = self._levels[int(np.argmin(np.abs(self._sides - 64)))]
            self._ramps = _light_and_dark(middle)
            self._boxes = _ink_boxes(middle)
            tints = torch.tensor([TINTS[name] for name in COLOURS], device=self.device) / 255
            self._tints = tints[..., None, None]  # [12, 3, 3, 1, 1]
            rims = torch.tensor([RIMS.get(name, (0, 0, 0)) for name in COLOURS], device=self.device) / 255
            self._rims = rims[..., None, None]  # [12, 3, 1, 1]

    @torch.no_grad()
    def __call__(self, layout: SceneLayout, height: int, width: int) -> Tensor:
        """-> float32 [B, 3, height, width] in [-1, 1], whole levels of 255, channels last in memory, on the device."""
        batch = max(1, DRAW_PIXELS["cpu" if self.device.type == "cpu" else "cuda"] // (height * width))
        order = np.lexsort((layout.styles, layout.times, layout.kinds))  # pictures of one kind lie together
        items = _Items.of(layout, self, height, width)
        out = torch.empty((len(layout), 3, height, width), device=self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(layout), batch):
                rows = order[start : start + batch]
                out[self._upload(rows)] = self._draw(layout, items, rows, height, width)
        return out

    def _draw(self, layout: SceneLayout, items: "_Items", rows: np.ndarray, height: int, width: int) -> Tensor:
        """-> float32 [rows, 3, height, width] in [-1, 1]"""
        # Three channels of colour, and which object is seen: 0 where none is.
        canvas = torch.zeros((len(rows), 4, height, width), device=self.device)
        colours = canvas[:, :3]
        seeds = self._upload(layout.seeds[rows].astype(np.int64))
        self._paint_backgrounds(colours, layout, rows, seeds)
        silhouettes = np.flatnonzero(layout.styles[rows] == STYLES.index("silhouette"))
        if len(silhouettes):
            index = self._upload(silhouettes)
            colours[index] = _lifted(colours[index])
        self._cast_shadows(colours, items, rows)
        for column in range(MAX_ITEMS):
            there = np.flatnonzero(items.drawn[rows, column])
            levels = items.levels[rows[there], column]
            for level in np.unique(levels):
                self._paste(canvas, items, rows, there[levels == level], column, level)
        for weather, draw in (("rain", draw_rain), ("snowfall", draw_snowfall)):
            wet = np.flatnonzero(layout.weathers[rows] == WEATHERS.index(weather))
            if len(wet):
                index = self._upload(wet)
                part = colours[index]
                draw(part, seeds[index])
                colours[index] = part
        for style in np.unique(layout.styles[rows]):
            change = FILTERS.get(STYLES[style])
            if change is not None:
                index = self._upload(np.flatnonzero(layout.styles[rows] == style))
                part = canvas[index]
                colours[index] = change(part[:, :3], part[:, 3:], seeds[index])
        return colours.mul_(255).round_().clamp_(0, 255).div_(127.5).sub_(1)

    def _paint_backgrounds(self, colours: Tensor, layout: SceneLayout, rows: np.ndarray, seeds: Tensor) -> None:
        horizons = self._upload(layout.horizons[rows].astype(np.float32))
        plain = self._upload(layout.colours[rows].astype(np.float32) / 255)
        grey = self._upload((layout.weathers[rows] > 0).astype(np.float32))
        keys = layout.kinds[rows].astype(np.int64) * len(TIMES) + layout.times[rows]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            kind, time = BACKGROUNDS[keys[start] // len(TIMES)], TIMES[keys[start] % len(TIMES)]
            part = slice(start, stop)
            paint_background(
                colours[part], kind, time, seeds[part], horizons[part], plain[part], grey[part], kind in OUTDOORS
            )

    def _cast_shadows(self, colours: Tensor, items: "_Items", rows: np.ndarray) -> None:
        """Soft flat ellipses at the feet of what stands on a ground."""
        height, width = colours.shape[-2:]
        x = torch.arange(width, device=self.device) + 0.5
        y = (torch.arange(height, device=self.device) + 0.5)[:, None]
        for column in range(MAX_ITEMS):
            there = np.flatnonzero(items.shadowed[rows, column])
            if not len(there):
                continue
            across, foot, half, flat = self._upload(items.shadows[rows[there], column])[..., None, None].unbind(1)
            far = ((x - across) / half) ** 2 + ((y - foot) / flat) ** 2
            dark = (1 - far).clamp_(0, 1)
            shadow = 1 - 0.42 * (dark * (2 - dark))[:, None]
            if len(there) == len(rows):
                colours.mul_(shadow)
            else:
                index = self._upload(there)
                colours[index] = colours[index] * shadow

    def _paste(
        self, canvas: Tensor, items: "_Items", rows: np.ndarray, there: np.ndarray, column: int, level: int
    ) -> None:
        """Draw one object on each of the pictures `there`, from one level of the atlas, in a window around it."""
        height, width = canvas.shape[-2:]
        which = rows[there]
        reach = math.ceil(float(items.reaches[which, column].max()) / 8) * 8 + 2
        high, wide = min(height, reach), min(width, reach)
        middles = items.middles[which, column]
        left = np.clip(np.floor(middles[:, 0] - wide / 2), 0, width - wide)
        top = np.clip(np.floor(middles[:, 1] - high / 2), 0, height - high)
        numbers = np.concatenate([items.turns[which, column], (np.stack([left, top], 1) + 0.5 - middles)], 1)
        a, b, c, d, x0, y0 = self._upload(numbers.astype(np.float32))[..., None, None].unbind(1)
        dx = torch.arange(wide, device=self.device) + x0
        dy = torch.arange(high, device=self.device)[:, None] + y0
        grid = torch.stack((a * dx + b * dy, c * dx + d * dy), dim=-1)
        index = self._upload(np.stack([items.rows[which, column], there, left.astype(np.int64), top.astype(np.int64)]))
        large = level < 0  # about as large as the drawing, or larger: the mean of two by two pixels would blur
        level = max(level, 0)
        drawings = self._levels[level][index[0]].float()
        ink = F.grid_sample(drawings, grid, mode="bicubic" if large else "bilinear", align_corners=False).mul_(1 / 255)
        if large:
            ink.clamp_(0, 1)
            ink[:, :3] = torch.minimum(ink[:, :3], ink[:, 3:])
        rgb, alpha = ink[:, :3], ink[:, 3:]
        tinted = np.flatnonzero(items.tints[which, column] >= 0)
        if len(tinted):
            part, tints = self._upload(tinted), items.tints[which[tinted], column].astype(np.int64)
            rgb[part] = self._tint(ink[part], index[0][part], self._upload(tints))
            rimmed = np.flatnonzero(np.isin(tints, _RIMMED))
            if len(rimmed):
                part = self._upload(tinted[rimmed])
                coarse = self._levels[min(level + 5, len(self._levels) - 1)][index[0][part]][:, 3:].float()
                near = F.grid_sample(coarse, grid[part], align_corners=False)
                rim = ((0.92 - near / 255) * 1.6).clamp_(0, 0.85)
                rgb[part] = torch.lerp(rgb[part], self._rims[self._upload(tints[rimmed])] * alpha[part], rim)
        rgb.mul_(self._upload(items.lights[which])[..., None, None])
        whole = torch.cat((rgb, alpha * OWNERS[column]), dim=1)
        if high == height and wide == width:
            if len(there) == len(canvas):
                canvas.mul_(1 - alpha).add_(whole)
            else:
                canvas[index[1]] = canvas[index[1]] * (1 - alpha) + whole
            return
        flat = canvas.view(len(canvas), 4, height * width)
        place = (index[3][:, None] + torch.arange(high, device=self.device))[:, :, None] * width
        place = (place + (index[2][:, None] + torch.arange(wide, device=self.device))[:, None, :]).flatten(1)
        channel = torch.arange(4, device=self.device)[None, :, None]
        where = (index[1][:, None, None], channel, place[:, None])
        under = flat[where].view(-1, 4, high, wide)
        flat[where] = (under * (1 - alpha) + whole).flatten(2)

    def _tint(self, ink: Tensor, drawings: Tensor, tints: Tensor) -> Tensor:
        """ink [n, 4, h, w] of the drawings [n], repainted -> premultiplied [n, 3, h, w]"""
        alpha = ink[:, 3:]
        light = luma(ink[:, :3]) / alpha.clamp(min=1e-3)
        common, falling, rising = self._ramps[drawings].t()[..., None, None, None]
        above = light - common
        share = (above * torch.where(above < 0, falling, rising)).clamp_(-1, 1)
        dark, middle, bright = self._tints[tints].unbind(1)
        ramp = middle + (bright - middle) * share.clamp(min=0) - (dark - middle) * share.clamp(max=0)
        return ramp * alpha

    def _upload(self, numbers: np.ndarray) -> Tensor:
        """A copy on the device; the copy to a GPU does not wait for the work before it."""
        tensor = torch.from_numpy(np.ascontiguousarray(numbers))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


_RIMMED = [place for place, name in enumerate(COLOURS) if name in RIMS]
OWNERS = (1.0, 0.7, 0.85, 0.6, 0.92, 0.77, 0.65, 0.55)
"""What the owners' channel holds of the objects, well apart from one to the next."""


@dataclass(frozen=True)
class _Items:
    """Where all objects of a layout go, in pixels.

    drawn, shadowed   bool [B, N]
    rows, levels   int64 [B, N], drawing and level of the atlas; -1: the largest, which is no larger than it appears
    middles   float64 [B, N, 2];  reaches [B, N], side of the square around the turned drawing
    turns     float64 [B, N, 4], of the matrix from pixels to the coordinates of `grid_sample`
    shadows   float32 [B, N, 4], x and y of the middle, half width, half height
    lights    float32 [B, 3], how much of each colour the light of the time leaves
    """

    drawn: np.ndarray
    shadowed: np.ndarray
    rows: np.ndarray
    levels: np.ndarray
    tints: np.ndarray
    middles: np.ndarray
    reaches: np.ndarray
    turns: np.ndarray
    shadows: np.ndarray
    lights: np.ndarray

    @classmethod
    def of(cls, layout: SceneLayout, compositor: Compositor, height: int, width: int) -> "_Items":
        short = min(height, width)
        drawn = layout.things >= 0
        rows = compositor._rows[layout.looks.astype(np.int64)[:, None], np.where(drawn, layout.things, 0)]
        sizes = np.maximum(layout.places[..., 2].astype(np.float64) * short, 1.0)
        middles = layout.places[..., :2].astype(np.float64) * (width, height)
        angles = np.radians(layout.angles.astype(np.float64))
        cos, sin = np.cos(angles), np.sin(angles)
        mirror = np.where(layout.flips, -1.0, 1.0)
        turns = np.stack([cos * mirror, -sin * mirror, sin, cos], axis=-1) * (2 / sizes)[..., None]
        sides = compositor._sides  # falling
        levels = (sides >= SHARPER * sizes[..., None]).sum(-1) - 1
        # The box around the ink, turned: middle and half extents from the middle of the drawing.
        boxes = compositor._boxes[rows]  # left, top, right, bottom, and the foot's left and right; 0 to 1
        x = (boxes[..., 0] + boxes[..., 2] - 1) / 2 * mirror * sizes
        y = (boxes[..., 1] + boxes[..., 3] - 1) / 2 * sizes
        half_x, half_y = ((boxes[..., 2 + i] - boxes[..., i]) / 2 * sizes for i in (0, 1))
        box_x = middles[..., 0] + x * cos + y * sin
        box_y = middles[..., 1] - x * sin + y * cos
        half_x, half_y = half_x * abs(cos) + half_y * abs(sin), half_x * abs(sin) + half_y * abs(cos)
        feet = box_y + half_y
        foot_x = middles[..., 0] + ((boxes[..., 4] + boxes[..., 5] - 1) / 2) * mirror * sizes
        foot_half = (boxes[..., 5] - boxes[..., 4]) / 2 * sizes
        straight = np.abs(sin) < 0.2
        foot_x = np.where(straight, foot_x, box_x)
        shadow_half = np.where(straight, 0.55 * half_x + 0.45 * foot_half, half_x * 0.8) * 1.04
        flat = np.clip(shadow_half * 0.2, 0.008 * short, 0.05 * short)
        shadows = np.stack([foot_x, feet - 0.25 * flat, shadow_half, flat], axis=-1).astype(np.float32)
        grounded = np.isin(layout.kinds, [BACKGROUNDS.index(kind) for kind in GROUNDED])
        ground = layout.horizons.astype(np.float64)[:, None] * height
        shadowed = drawn & grounded[:, None] & (feet >= ground - 0.01 * short)
        shadowed &= ~compositor._symbols[np.where(drawn, layout.things, 0)]
        for above in range(MAX_ITEMS):
            for below in range(MAX_ITEMS):
                if above != below:  # what stands on another object, or hangs in front of it, casts none
                    over = np.abs(foot_x[:, above] - box_x[:, below]) < half_x[:, below]
                    over &= feet[:, above] > box_y[:, below] - half_y[:, below] - 0.02 * short
                    over &= feet[:, above] < box_y[:, below] + 0.7 * half_y[:, below]
                    shadowed[:, above] &= ~(over & drawn[:, below])
        lights = np.array([LIGHT[time] for time in TIMES], dtype=np.float32)[layout.times.astype(np.int64)]
        outdoors = np.isin(layout.kinds, [BACKGROUNDS.index(kind) for kind in OUTDOORS])
        lights = np.where(outdoors[:, None], lights, np.float32(1))
        lights = np.where((layout.styles == STYLES.index("silhouette"))[:, None], np.float32(0), lights)
        return cls(
            drawn=drawn,
            shadowed=shadowed,
            rows=rows,
            levels=levels,
            tints=layout.tints,
            middles=middles,
            reaches=sizes * (abs(cos) + abs(sin)) + 2,
            turns=turns,
            shadows=shadows,
            lights=lights.astype(np.float32),
        )


def _lifted(colours: Tensor) -> Tensor:
    """Lighten dark pictures [B, 3, H, W], so that black shows on them."""
    mean = luma(colours).mean((2, 3), keepdim=True)
    power = (math.log(0.5) / mean.clamp(0.01, 0.5).log()).clamp(0.35, 1)
    return colours.clamp(min=0.03) ** power


def _scaled_atlas(drawings: np.ndarray, device: torch.device) -> list[Tensor]:
    """uint8 [R, G, G, 4] -> uint8 [R, 4, g, g] for sides g that fall from G in steps of the square root of 2."""
    side = drawings.shape[1]
    sides = [side]
    while side / math.sqrt(2) ** len(sides) >= SMALLEST_LEVEL:
        sides.append(2 * round(side / math.sqrt(2) ** len(sides) / 2))
    levels = [torch.empty((len(drawings), 4, one, one), dtype=torch.uint8, device=device) for one in sides]
    for start in range(0, len(drawings), 128):
        part = torch.tensor(drawings[start : start + 128], device=device).permute(0, 3, 1, 2)
        levels[0][start : start + 128] = part
        whole = part.float()
        for level in levels[1:]:
            small = F.interpolate(whole, level.shape[-2:], mode="bicubic", align_corners=False, antialias=True)
            small = small.round_().clamp_(0, 255)
            level[start : start + 128] = torch.minimum(small, small[:, 3:]).to(torch.uint8)
    return levels


def _light_and_dark(drawings: Tensor) -> Tensor:
    """How the light and dark of each drawing is stretched before it is tinted.

    drawings uint8 [R, 4, g, g] -> float32 [R, 3]: the 60th percentile of its ink's luma, which becomes the tint itself,
    one over the distance from there to the 5th percentile, and one over that to the 95th; luma from 0 to 1.
    """
    parts = []
    for start in range(0, len(drawings), 512):
        part = drawings[start : start + 512].float() / 255
        alpha = part[:, 3].flatten(1)
        light = luma(part[:, :3]).flatten(1) / alpha.clamp(min=1e-3)
        ink = alpha > 0.5
        ordered = torch.where(ink, light, 9.0).sort(dim=1).values
        last = (ink.sum(1, keepdim=True) - 1).clamp(min=0)
        places = ((last * share).round().long() for share in (0.05, 0.6, 0.95))
        low, middle, high = (ordered.gather(1, place).clamp(max=1) for place in places)
        falling, rising = (middle - low).clamp(min=FLAT), (high - middle).clamp(min=FLAT)
        parts.append(torch.cat((middle, 1 / falling, 1 / rising), dim=1))
    return torch.cat(parts)


def _ink_boxes(drawings: Tensor) -> np.ndarray:
    """Where the ink of each drawing is.

    drawings uint8 [R, 4, g, g] -> float64 [R, 6], shares of the side: left, top, right and bottom of the ink, left and
    right of that in the lowest eighth of its height
    """
    ink = (drawings[:, 3] > 100).cpu().numpy()
    side = ink.shape[-1]

    def span(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = mask.any(1)
        first = np.where(there, mask.argmax(1), 0)
        last = np.where(there, side - mask[:, ::-1].argmax(1), side)
        return first, last

    left, right = span(np.any(ink, axis=1))
    top, bottom = span(np.any(ink, axis=2))
    level = np.arange(side)[None, :]
    low = level >= (bottom - np.maximum(2.0, (bottom - top) / 8))[:, None]
    foot_left, foot_right = span(np.any(ink & low[:, :, None], axis=1))
    return np.stack([left, top, right, bottom, foot_left, foot_right], axis=1) / side
