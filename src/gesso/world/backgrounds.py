"""What stands behind the objects: plain patterns and twelve places, painted for many pictures at once.

Everything is a few flat layers with soft-edged borders, sized in shares of the shorter side, so that a picture looks
the same at every size. What is drawn at random follows from the seeds alone, in whole-number arithmetic.
Shapes: B pictures of one kind, H W rows and columns. Colours are shares of full brightness, 0 to 1.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

RGB = tuple[float, float, float]
TAU = 2 * math.pi
LUMA = (0.299, 0.587, 0.114)
PICKS = 64  # random numbers that `Stage.pick` makes at a time


def hashed(seeds: Tensor, count: int, salt: int) -> Tensor:
    """Random-looking numbers that depend on the seed, the salt and their place alone, on every device.

    seeds int64 [B] -> float32 [B, count] in [0, 1)
    """
    places = torch.arange(count, device=seeds.device) + salt * 7919
    h = _mixed(seeds * 0x9E3779B1 + 0x7F4A7C15)[:, None] + places * 0x85EBCA6B
    return (_mixed(h) >> 8).float() * 2.0**-24


def _mixed(h: Tensor) -> Tensor:
    """The last steps of MurmurHash3: every bit of the input changes half of those of the output.  -> int64 < 2^32"""
    h = h & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def rgb(code: int) -> RGB:
    """0xRRGGBB -> shares of full brightness"""
    return (code >> 16) / 255, (code >> 8 & 255) / 255, (code & 255) / 255


@lru_cache(maxsize=1024)
def constant(colour: RGB, device: torch.device) -> Tensor:
    """A colour on the device, kept: sending it anew would make a GPU wait.  -> float32 [1, 3, 1, 1]"""
    return torch.tensor(colour, device=device)[None, :, None, None]


def luma(picture: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]"""
    return (picture * constant(LUMA, picture.device)).sum(1, keepdim=True)


class Stage:
    """Pictures of one kind while they are painted, from the back to the front.

    picture [B, 3, H, W], painted in place; x [1, 1, 1, W] and y [1, 1, H, 1], of the pixels' middles in shorter sides;
    ground [B, 1, 1, 1], where the ground begins, in the same unit; time "day", "sunset" or "night".
    """

    def __init__(self, picture: Tensor, seeds: Tensor, horizons: Tensor, colours: Tensor, time: str, salt: int) -> None:
        self.picture = picture
        self.seeds = seeds
        self.colours = colours  # [B, 2, 3], of plain kinds
        self.time = time
        self.salt = salt
        height, width = picture.shape[-2:]
        short = min(height, width)
        self.pixel = 1 / short
        self.height, self.width = height / short, width / short
        device = picture.device
        self.x = ((torch.arange(width, device=device) + 0.5) / short)[None, None, None, :]
        self.y = ((torch.arange(height, device=device) + 0.5) / short)[None, None, :, None]
        self.ground = (horizons * self.height)[:, None, None, None]
        self._taken = 0
        self._tables = 0

    def pick(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The next random number of each picture.  -> [B, 1, 1, 1] in [low, high)"""
        block, place = divmod(self._taken, PICKS)
        if place == 0:
            self._numbers = hashed(self.seeds, PICKS, self.salt * 1000 + block)
        taken = self._numbers[:, place]
        self._taken += 1
        return (low + (high - low) * taken)[:, None, None, None]

    def chance(self, probability: float) -> Tensor:
        """-> [B, 1, 1, 1], 1 with the probability, else 0"""
        return (self.pick() < probability).float()

    def table(self, count: int) -> Tensor:
        """Further random numbers.  -> [B, count] in [0, 1)"""
        self._tables += 1
        return hashed(self.seeds, count, self.salt * 1000 + 500 + self._tables)

    def constant(self, colour: RGB) -> Tensor:
        return constant(colour, self.picture.device)

    def shade(self, *colours: int) -> Tensor:
        """A colour at a random place on the way from one to the next of the given.  -> [B, 3, 1, 1]"""
        stops = [self.constant(rgb(one)) for one in colours]
        if len(stops) == 1:
            return stops[0]
        place = self.pick() * (len(stops) - 1)
        mixed = stops[0]
        for index, stop in enumerate(stops[1:]):
            mixed = torch.lerp(mixed, stop, (place - index).clamp(0, 1))
        return mixed

    def lit(self, *colours: int) -> Tensor:
        """`shade` in the light of the time of day.  -> [B, 3, 1, 1]"""
        return self.in_light(self.shade(*colours))

    def in_light(self, colour: Tensor) -> Tensor:
        if self.time == "sunset":
            return colour * self.constant((0.97, 0.78, 0.71)) + self.constant((0.02, 0.0, 0.04))
        if self.time == "night":
            return torch.lerp(colour, luma(colour), 0.35) * self.constant((0.26, 0.34, 0.54)) + self.constant(
                (0.02, 0.03, 0.08)
            )
        return colour

    def fill(self, colour: Tensor) -> None:
        self.picture.copy_(colour.expand_as(self.picture))

    def paint(self, mask: Tensor, colour: Tensor) -> None:
        """mask [B, 1, H, W], 0 to 1: how much of the colour [B, 3, 1, 1] covers each pixel"""
        self.picture.lerp_(colour, mask)

    def edge(self, distance: Tensor, slope: Tensor | float = 1.0) -> Tensor:
        """Coverage of what lies where the distance is positive, with a border a pixel wide."""
        return (distance * (1 / self.pixel) / slope + 0.5).clamp_(0, 1)

    def below(self, curve: Tensor) -> Tensor:
        """curve [B, 1, 1, W]: the y that is the upper border -> coverage [B, 1, H, W] of everything beneath"""
        return self.edge(self.y - curve, self._slope(curve))

    def _slope(self, curve: Tensor) -> Tensor:
        if curve.shape[-1] == 1:
            return curve.new_ones(())
        rise = F.pad(curve[..., 2:] - curve[..., :-2], (1, 1, 0, 0), mode="replicate")
        return (1 + (rise / (2 * self.pixel)) ** 2).sqrt()

    def layer(self, curve: Tensor, top: Tensor, bottom: Tensor, depth: float) -> None:
        """Paint everything beneath a curve, in a colour that passes from one to another with the depth."""
        deep = self.y - curve
        mask = self.edge(deep, self._slope(curve))
        self.picture.lerp_(torch.lerp(top, bottom, (deep / depth).clamp_(0, 1)), mask)

    def waves(self, *parts: tuple[float, float]) -> Tensor:
        """Sines of the given amplitudes and waves a shorter side, a fifth more or less.  -> [B, 1, 1, W]"""
        total = torch.zeros((), device=self.picture.device)
        for amplitude, count in parts:
            total = total + amplitude * (TAU * (self.x * count * self.pick(0.8, 1.2) + self.pick())).sin() * self.pick(
                0.7, 1.2
            )
        return total

    def ridge(self, *parts: tuple[float, float]) -> Tensor:
        """Zigzags of the given heights and corners a shorter side.  -> [B, 1, 1, W] from 0 to the sum of the heights"""
        total = torch.zeros((), device=self.picture.device)
        for height, count in parts:
            place = self.x * count + self.pick()
            nodes = self.table(math.ceil(self.width * count) + 3)[:, None, None, :]
            left = place.floor()
            share = place - left
            index = left.long().clamp_(0, nodes.shape[-1] - 2)
            low, high = nodes.gather(3, index), nodes.gather(3, index + 1)
            total = total + height * torch.lerp(low, high, share)
        return total

    def noise(self, count: int) -> Tensor:
        """Smooth blotches, `count` a shorter side.  -> [B, 1, H, W], about 0 to 1"""
        rows, columns = math.ceil(self.height * count) + 1, math.ceil(self.width * count) + 1
        table = self.table(rows * columns).view(-1, 1, rows, columns)
        return F.interpolate(table, self.picture.shape[-2:], mode="bicubic", align_corners=True)

    def cells(self, x: Tensor, y: Tensor, wide: float, high: float, kinds: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """A grid of cells: where each pixel is in its own, and random numbers of the cell.

        x, y: of the pixels, the same in all pictures -> x and y from the middle of the cell, in shorter sides, and
        `kinds` numbers [B, 1, H, W]
        """
        columns, rows = math.ceil(self.width / wide) + 4, math.ceil(self.height / high) + 2
        column, row = (x / wide).floor(), (y / high).floor()
        index = ((row % rows) * columns + column % columns).long()
        shape = index.shape[2:]
        table = self.table(kinds * rows * columns).view(-1, kinds, rows * columns)
        numbers = table.index_select(2, index.flatten()).view(-1, kinds, *shape)
        return x - (column + 0.5) * wide, y - (row + 0.5) * high, [numbers[:, i : i + 1] for i in range(kinds)]

    def disc(self, x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
        """-> coverage [B, 1, H, W]"""
        return self.edge(radius - ((self.x - x) ** 2 + (self.y - y) ** 2).sqrt())

    def glow(self, x: Tensor, y: Tensor, radius: float) -> Tensor:
        """-> [B, 1, H, W], 1 in the middle and 0 at the radius"""
        near = (1 - ((self.x - x) ** 2 + (self.y - y) ** 2) * (1 / radius**2)).clamp_(0, 1)
        return near * near

    def upright(self, curve_top: Tensor, bottom: Tensor) -> Tensor:
        """Coverage of everything between two borders, of which the upper may jump from column to column."""
        return torch.minimum(self.edge(self.y - curve_top), self.edge(bottom - self.y))


# Plain kinds


def _two(stage: Stage) -> tuple[Tensor, Tensor]:
    colours = stage.colours[..., None, None]
    return colours[:, 0], colours[:, 1]


def _turned(stage: Stage) -> tuple[Tensor, Tensor]:
    """x and y along axes that are turned by a random multiple of 15 degrees, or not at all."""
    angle = (stage.pick() * 12).floor() * (math.pi / 12) * stage.chance(0.6)
    cos, sin = angle.cos(), angle.sin()
    x, y = stage.x - stage.width / 2, stage.y - stage.height / 2
    return x * cos + y * sin, y * cos - x * sin


def plain(stage: Stage) -> None:
    stage.fill(_two(stage)[0])


def gradient(stage: Stage) -> None:
    first, second = _two(stage)
    angle = TAU * stage.pick()
    cos, sin = angle.cos(), angle.sin()
    along = (stage.x - stage.width / 2) * cos + (stage.y - stage.height / 2) * sin
    reach = (stage.width * cos.abs() + stage.height * sin.abs()) * 0.45
    stage.picture.copy_(torch.lerp(first, second, (along / (2 * reach) + 0.5).clamp_(0, 1)))


def stripes(stage: Stage) -> None:
    first, second = _two(stage)
    x, _ = _turned(stage)
    half = stage.pick(0.045, 0.11)
    stage.fill(first)
    stage.paint(stage.edge(((x / half + 100.5) % 2 - 1).abs() * half - half / 2), second)


def dots(stage: Stage) -> None:
    first, second = _two(stage)
    x, y = _turned(stage)
    pitch = stage.pick(0.11, 0.2)
    row = (y / pitch + 100.5).floor()
    x = (x / pitch + 100.5 + 0.5 * (row % 2)) % 1 - 0.5
    y = (y / pitch + 100.5) % 1 - 0.5
    stage.fill(first)
    stage.paint(stage.edge((stage.pick(0.24, 0.32) - (x * x + y * y).sqrt()) * pitch), second)


def checks(stage: Stage) -> None:
    first, second = _two(stage)
    x, y = _turned(stage)
    side = stage.pick(0.09, 0.17)
    across, down = (((one / side + 100) % 2 - 1).abs() * side - side / 2 for one in (x, y))
    across, down = stage.edge(across), stage.edge(down)
    stage.fill(first)
    stage.paint(across + down - 2 * across * down, second)


# The sky, also behind the other places


def draw_sky(stage: Stage, grey: Tensor, whole: bool) -> None:
    """The sky down to the ground, or over the whole picture; grey [B, 1, 1, 1]: 1 where it rains or snows."""
    bottom = stage.ground.new_full((1, 1, 1, 1), stage.height) if whole else stage.ground.clamp(min=0.3)
    v = (stage.y / bottom).clamp(0, 1)
    if stage.time == "day":
        top, low = stage.shade(0x3F97E8, 0x5DB4F2), stage.shade(0xBFE4FB, 0xD6F0FA)
        dull_top, dull_low = stage.constant(rgb(0x8597A8)), stage.constant(rgb(0xC3CDD6))
        top, low = torch.lerp(top, dull_top, grey), torch.lerp(low, dull_low, grey)
        stage.picture.copy_(torch.lerp(top, low, v))
    elif stage.time == "sunset":
        top, middle, low = (
            stage.shade(0x5B4B9E, 0x7A4F9E),
            stage.shade(0xF0707A, 0xF58A6E),
            stage.shade(0xFFC46B, 0xFFD98A),
        )
        top = torch.lerp(top, stage.constant(rgb(0x6A6078)), grey * 0.6)
        middle = torch.lerp(middle, stage.constant(rgb(0xB98A86)), grey * 0.6)
        low = torch.lerp(low, stage.constant(rgb(0xE0B58E)), grey * 0.6)
        upper = torch.lerp(top, middle, (v / 0.6).clamp(0, 1))
        stage.picture.copy_(torch.lerp(upper, low, ((v - 0.6) / 0.4).clamp_(0, 1)))
    else:
        top, low = stage.shade(0x0B1030, 0x14123C), stage.shade(0x2B3B78, 0x3A3C80)
        low = torch.lerp(low, stage.constant(rgb(0x2E3650)), grey)
        stage.picture.copy_(torch.lerp(top, low, v))
    clear = 1 - grey
    if stage.time == "night":
        _stars(stage, 0.115, 0.45, clear)
        _clouds(stage, bottom, whole)
        _moon(stage, bottom, clear)
    else:
        _sun(stage, bottom, clear)
        _clouds(stage, bottom, whole)


def _stars(stage: Stage, pitch: float, share: float, strength: Tensor | float) -> None:
    dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, pitch, pitch, 3)
    radius = 0.0035 + 0.0075 * (c / share) ** 3
    room = pitch * 0.74
    distance = ((dx - (a - 0.5) * room) ** 2 + (dy - (b - 0.5) * room) ** 2).sqrt()
    stage.paint(stage.edge(radius - distance) * (c < share) * strength, stage.constant(rgb(0xFFF6D8)))


def _moon(stage: Stage, bottom: Tensor, strength: Tensor) -> None:
    x, y = stage.pick(0.12, 0.88) * stage.width, bottom * stage.pick(0.16, 0.34)
    radius = stage.pick(0.05, 0.075)
    stage.paint(stage.glow(x, y, 0.3) * 0.35 * strength, stage.constant(rgb(0x8FA0E8)))
    body = stage.disc(x, y, radius)
    bite = stage.disc(x + radius * 0.55, y - radius * 0.3, radius * 0.95) * stage.chance(0.6)
    stage.paint(body * (1 - bite) * strength, stage.constant(rgb(0xFFF3C4)))


def _sun(stage: Stage, bottom: Tensor, strength: Tensor) -> None:
    if stage.time == "day":
        x, y = stage.pick(0.1, 0.9) * stage.width, bottom * stage.pick(0.12, 0.25)
        shown = strength * stage.chance(0.55)
        stage.paint(stage.glow(x, y, 0.26) * 0.7 * shown, stage.constant(rgb(0xFFF7CF)))
        stage.paint(stage.disc(x, y, stage.pick(0.05, 0.07)) * shown, stage.constant(rgb(0xFFE066)))
        return
    x, y = stage.pick(0.15, 0.85) * stage.width, bottom - stage.pick(-0.02, 0.1)
    stage.paint(stage.glow(x, y, 0.5) * 0.7 * strength, stage.constant(rgb(0xFFE29A)))
    stage.paint(stage.disc(x, y, stage.pick(0.09, 0.13)) * strength, stage.constant(rgb(0xFFF0B8)))


def _clouds(stage: Stage, bottom: Tensor, whole: bool) -> None:
    """Flat-bottomed heaps of round bumps; their outline is a function of x, which is quick to draw."""
    colour = {"day": 0xFFFFFF, "sunset": 0xFFC4B0, "night": 0x333E78}[stage.time]
    opacity = {"day": 0.94, "sunset": 0.8, "night": 0.95}[stage.time]
    count = round((6 if whole else 3) * stage.width)
    for index in range(count):
        size = stage.pick(0.07, 0.16 if whole else 0.12)
        x = (index + stage.pick(0.1, 0.9)) / count * stage.width
        if whole:  # high and low by turns
            y = bottom * (stage.pick(0.12, 0.5) if index % 2 else stage.pick(0.5, 0.92))
        else:
            y = bottom * stage.pick(0.16, 0.64)
        top = torch.zeros((), device=stage.picture.device)
        for shift, radius in ((-0.85, 0.5), (-0.2, 0.85), (0.45, 0.7), (1.0, 0.42)):
            r = radius * size * stage.pick(0.85, 1.15)
            bump = (r * r - (stage.x - x - shift * size) ** 2).clamp_(min=0).sqrt()
            top = torch.maximum(top, bump)
        base = (top * 0.35).clamp(max=0.018)  # the foot is rounded a little
        mask = torch.minimum(stage.below(y - top), stage.edge(y + base - stage.y, stage._slope(base)))
        shown = stage.chance(0.85) * opacity
        stage.paint(mask * (top > 0) * shown, stage.constant(rgb(colour)))


# Places


def sky(stage: Stage) -> None:
    del stage  # draw_sky did it


def meadow(stage: Stage) -> None:
    g = stage.ground
    stage.layer(
        g - 0.075 + stage.waves((0.03, 0.7), (0.012, 1.7)), stage.lit(0xA9D67E, 0x93CDA0), stage.lit(0x8CC46C), 0.2
    )
    stage.layer(
        g - 0.025 + stage.waves((0.02, 0.9), (0.008, 2.1)), stage.lit(0x86C65A, 0x77BE5E), stage.lit(0x6DB352), 0.2
    )
    stage.layer(g + 0.02 + stage.waves((0.01, 0.6)), stage.lit(0x74C04A, 0x66B848), stage.lit(0x479A3A, 0x3E9440), 0.45)
    _tufts(stage, g + 0.06, stage.lit(0x3C8A34))
    _flowers(stage, g + 0.07)


def _tufts(stage: Stage, top: Tensor, colour: Tensor) -> None:
    dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, 0.13, 0.085, 3)
    x, y = dx - (a - 0.5) * 0.08, dy - (b - 0.5) * 0.04
    high = 0.022 + 0.014 * c
    up = (y / high + 0.5).clamp(0, 1)  # 0 at the tips, 1 at the foot
    x = x.abs()
    blades = torch.minimum(x, (x - 0.013 * (1 - up)).abs() - 0.0005)
    mask = stage.edge(0.0065 * up.sqrt() - blades) * stage.edge(high / 2 - y.abs()) * (c < 0.6)
    stage.paint(mask * (stage.y - y > top), colour)


def _flowers(stage: Stage, top: Tensor) -> None:
    dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, 0.17, 0.12, 3)
    x, y = dx - (a - 0.5) * 0.11, dy - (b - 0.5) * 0.07
    far = (x * x + y * y).sqrt()
    share = stage.pick(0.15, 0.5)
    shown = (c < share) * (stage.y - y > top)
    stage.paint(stage.edge(0.016 - far) * shown, stage.lit(0xFFFFFF, 0xFFE9F2, 0xFF9CB8, 0xE8595A, 0xC79BF0))
    stage.paint(stage.edge(0.0065 - far) * shown, stage.lit(0xFFD43B))


def sea(stage: Stage) -> None:
    g = stage.ground
    far, near = stage.lit(0x59B8E0, 0x46A8DC), stage.lit(0x1665A8, 0x145A9C)
    stage.layer(g, far, near, 0.55)
    for index in range(5):
        share = (index + 0.6) / 5
        curve = g + share**1.4 * (stage.height - g) + stage.waves((0.004 + 0.011 * share, 6 - 3 * share), (0.003, 2.3))
        crest = torch.lerp(far, near, share * 0.8)
        stage.paint(
            stage.below(curve - 0.009 - 0.009 * share), torch.lerp(crest, stage.lit(0xD8F3FF), 0.6 - 0.15 * share)
        )
        stage.layer(curve, torch.lerp(crest, near, 0.1), torch.lerp(far, near, min(1.0, share + 0.25)), 0.2)


def beach(stage: Stage) -> None:
    g = stage.ground
    stage.layer(g - 0.13, stage.lit(0x2F8FD0, 0x3FA2D8), stage.lit(0x6FD0DC, 0x7ADBD8), 0.12)
    for share in (0.3, 0.6):
        curve = g - 0.13 + 0.13 * share + stage.waves((0.003, 4.0))
        stage.paint(stage.edge(0.003 - (stage.y - curve).abs()) * 0.55, stage.lit(0xFFFFFF))
    shore = g - 0.015 + stage.waves((0.014, 0.8), (0.006, 1.9))
    stage.paint(stage.below(shore - 0.018), stage.lit(0xFFFFFF))
    stage.layer(shore, stage.lit(0xE0BE82), stage.lit(0xF2D9A2, 0xF6DFB0), 0.09)
    stage.layer(shore + 0.22 + stage.waves((0.02, 0.7)), stage.lit(0xF3D89E), stage.lit(0xEACA8C), 0.4)
    dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, 0.2, 0.12, 3)
    x, y = dx - (a - 0.5) * 0.13, dy - (b - 0.5) * 0.07
    mask = stage.edge(0.01 - (x * x + 2.2 * y * y).sqrt()) * (c < 0.3) * (stage.y - y > g + 0.07)
    stage.paint(mask, stage.lit(0xD4A870))


def desert(stage: Stage) -> None:
    g = stage.ground
    stage.layer(g - 0.1 + stage.waves((0.03, 0.6), (0.01, 1.5)), stage.lit(0xEFC98E), stage.lit(0xE3B272), 0.2)
    light, dark = stage.lit(0xF2C67E, 0xF4C98A), stage.lit(0xCF8F4C, 0xC9854A)
    for index in range(math.ceil(2 * stage.width)):  # dunes with a crest, lit from the left
        x = (index + stage.pick(0.1, 0.9)) / math.ceil(2 * stage.width) * stage.width
        top = g - (stage.pick(0.1, 0.16) if index % 2 else stage.pick(0.05, 0.1))
        aside, down = stage.x - x, stage.y - top
        dune = stage.edge(
            down - torch.where(aside < 0, -0.3 * aside, 0.42 * aside) - 0.006 * (aside * 20).sin().square()
        )
        stage.paint(dune, light)
        stage.paint(dune * stage.edge(aside - 0.5 * down - 0.035 * (down * 26).sin()), dark)
    stage.layer(
        g + 0.025 + stage.waves((0.012, 0.6)), stage.lit(0xF3CB80, 0xF0C078), stage.lit(0xDD9E54, 0xD9964E), 0.5
    )
    for index in range(3):  # ripples in the sand
        curve = g + 0.1 + 0.1 * index + stage.waves((0.012, 1.1), (0.004, 2.3))
        fade = ((TAU * (stage.x * 0.8 + stage.pick())).sin() * 1.5).clamp(0, 1)
        stage.paint(stage.edge(0.004 - (stage.y - curve).abs()) * fade * 0.7, stage.lit(0xC98A44))


def snow(stage: Stage) -> None:
    g = stage.ground
    stage.layer(g - 0.09 + stage.waves((0.03, 0.7), (0.01, 1.6)), stage.lit(0xE4EEF8), stage.lit(0xC9DCEE), 0.2)
    _conifers(stage, g - 0.03, 0.085, 0.14, stage.lit(0x6E97A0, 0x7FA3B4), 0.55)
    stage.layer(g - 0.035 + stage.waves((0.015, 0.8), (0.005, 1.8)), stage.lit(0xF4F9FE), stage.lit(0xD5E4F3), 0.2)
    stage.layer(g + 0.03 + stage.waves((0.014, 0.6)), stage.lit(0xFFFFFF), stage.lit(0xDFEAF6), 0.4)
    stage.layer(g + 0.2 + stage.waves((0.025, 0.7)), stage.lit(0xFFFFFF), stage.lit(0xE6EFF9), 0.35)


def mountains(stage: Stage) -> None:
    g = stage.ground
    high = g.clamp(max=0.8)
    back = g - high * (0.26 + stage.ridge((0.34, 4.0), (0.06, 11.0)))
    stage.layer(back, stage.lit(0x9DB8D4, 0xAAB8D8), stage.lit(0xCBDCEA), 0.4)
    light, dark, white, blue = (
        stage.lit(*one) for one in ((0x8295B0, 0x8E93B0), (0x5E7191, 0x6A7094), (0xFFFFFF,), (0xCFDEEE,))
    )
    count = math.ceil(3 * stage.width) + 1
    zigzag = stage.ridge((0.06, 16.0))
    for index in sorted(range(count), key=lambda index: index % 2):
        x = (index + stage.pick(0.0, 0.9)) / (count - 0.3) * stage.width
        top = g - high * (stage.pick(0.6, 0.82) if index % 2 == 0 else stage.pick(0.42, 0.62))
        left, right = stage.pick(0.95, 1.35), stage.pick(0.95, 1.35)
        aside = stage.x - x
        fall = torch.where(aside < 0, -left * aside, right * aside)
        rock = stage.edge(stage.y - top - fall, 1.5)
        down = stage.y - top
        shadow = rock * stage.edge(aside - 0.22 * down + 0.03 * (down * 40).sin() * down.clamp(0, 1))
        cap = stage.edge(high * 0.17 + zigzag - down)
        stage.paint(rock, light)
        stage.paint(shadow, dark)
        stage.paint(rock * cap, white)
        stage.paint(shadow * cap, blue)
    stage.layer(
        g - 0.045 + stage.waves((0.02, 0.9), (0.006, 2.3)), stage.lit(0x6FA46A, 0x5E9A70), stage.lit(0x4F8A58), 0.2
    )
    stage.layer(g + 0.02 + stage.waves((0.01, 0.7)), stage.lit(0x86BC5E, 0x78B266), stage.lit(0x579448, 0x4E8C50), 0.4)


def _conifers(stage: Stage, base: Tensor, wide: float, high: float, colour: Tensor, share: float = 1.0) -> None:
    """A row of stylised firs of three tiers; base: the y of their feet."""
    x = stage.x + stage.pick() * wide
    column = (x / wide).floor()
    numbers = stage.table(3 * (math.ceil(stage.width / wide) + 2)).view(-1, 3, 1, math.ceil(stage.width / wide) + 2)
    index = column.long().clamp_(0, numbers.shape[-1] - 1).expand(len(numbers), 3, 1, -1)
    a, b, c = numbers.gather(3, index).split(1, dim=1)
    tall = high * (0.65 + 0.5 * a)
    dx = (x - (column + 0.5 + 0.16 * (b - 0.5)) * wide).abs()
    up = (base - stage.y) / tall  # 0 at the foot, 1 at the tip
    tier = ((1 - up) * 3).clamp(min=0)
    inner = 0.42 * (tier >= 1)  # each tier but the first begins within the one above
    half = (inner + (1 - inner) * (tier % 1)) * (0.4 + 0.6 * (tier / 3)) * wide * 0.42
    crown = stage.edge(torch.where(up < 0.06, wide * 0.07, half) - dx, 1.2)
    mask = crown * stage.edge((1 - up) * tall) * (up > -0.3) * (c < share)
    stage.paint(mask, colour)


def forest(stage: Stage) -> None:
    g = stage.ground
    stage.paint(((stage.y - (g - 0.45)) / 0.4).clamp(0, 1) * 0.75, stage.lit(0xD5EBC8, 0xCDE8DA))
    for index in range(3):
        base = g - 0.03 + 0.03 * index + stage.waves((0.006, 1.0))
        colour = stage.lit(*((0xA3CFA0, 0x9CCBB0), (0x63A56C, 0x5DA07C), (0x2F7848, 0x2C6E50))[index])
        _conifers(stage, base, (0.11, 0.15, 0.2)[index], (0.36, 0.42, 0.46)[index], colour, (1.0, 0.9, 0.75)[index])
        stage.paint(stage.below(base - 0.024), colour)
    stage.layer(
        g + 0.03 + stage.waves((0.01, 0.8), (0.004, 2.0)),
        stage.lit(0x6FA84E, 0x76A050),
        stage.lit(0x3C7438, 0x4A7038),
        0.4,
    )
    _tufts(stage, g + 0.07, stage.lit(0x336A34))


def city(stage: Stage) -> None:
    g = stage.ground
    lights = {"day": 0x9CC7E6, "sunset": 0xFFDF8A, "night": 0xFFD864}[stage.time]
    _skyline(stage, g, 0.085, 0.2, 0.55, stage.lit(0xA7BCD0, 0xB5BBD4))
    pitch = 0.15
    x = stage.x + stage.pick() * pitch
    column = (x / pitch).floor()
    count = math.ceil(stage.width / pitch) + 2
    index = column.long().clamp_(0, count - 1)
    numbers = stage.table(3 * count).view(-1, 3, 1, count).gather(3, index.expand(len(stage.seeds), 3, 1, -1))
    tall, tint, gap = numbers.split(1, dim=1)
    inside = x - (column + 0.5) * pitch
    body = stage.edge(pitch * (0.47 + 0.05 * (gap > 0.5)) - inside.abs())
    top = g - (0.16 + 0.3 * tall) * (g / 0.6).clamp(max=1.1)
    mask = torch.minimum(body, stage.upright(top, g))
    palette = (0x6C7FA0, 0xB0705E, 0x8C8FA8, 0xC89A6C, 0x5E8C96)
    colour = stage.lit(palette[0])
    for place, one in enumerate(palette[1:]):
        colour = torch.where(tint * len(palette) > place + 1, stage.lit(one), colour)
    stage.picture.lerp_(colour, mask)
    # Windows: three columns a house, all in one grid.
    wx = ((inside / pitch + 0.5) * 1.0 - 0.5) / 0.27
    col = (wx + 1.5).floor().clamp(0, 2)
    wide = (wx - (col - 1)) * 0.27 * pitch
    rise = (stage.y - top - 0.03) / 0.055
    row = rise.floor()
    down = (rise - row - 0.5) * 0.055
    panes = stage.edge(0.0125 - wide.abs()) * stage.edge(0.0165 - down.abs()) * (row >= 0) * (stage.y - down < g - 0.05)
    number = ((column * 3 + col) * 31 + row * 17).long()
    lit = stage.table(61).gather(1, (number % 61).flatten(1)).view(number.shape)
    panes = panes * mask
    if stage.time == "day":
        stage.paint(panes * (0.55 + 0.4 * lit), stage.constant(rgb(0xCFE6F5)))
    else:
        share = 0.55 if stage.time == "night" else 0.4
        stage.paint(panes, stage.lit(0x4A5878))
        stage.paint(panes * (lit < share), stage.constant(rgb(lights)))
    # Pavement and street.
    stage.paint(stage.below(g), stage.lit(0xC9C6C0))
    stage.paint(stage.below(g + 0.045), stage.lit(0x9B9891))
    stage.layer(g + 0.06, stage.lit(0x5C6068), stage.lit(0x4C5058), 0.3)
    dash = stage.edge(0.05 - (((stage.x + stage.pick()) / 0.2) % 1 - 0.5).abs() * 0.2)
    stage.paint(dash * stage.edge(0.007 - (stage.y - g - 0.17).abs()), stage.lit(0xF2E9C8))


def _skyline(stage: Stage, g: Tensor, pitch: float, low: float, high: float, colour: Tensor) -> None:
    """Plain blocks of random heights behind the houses."""
    place = (stage.x + stage.pick() * pitch) / pitch
    nodes = stage.table(math.ceil(stage.width / pitch) + 2)[:, None, None, :]
    tall = nodes.gather(3, place.floor().long().clamp_(0, nodes.shape[-1] - 1))
    stage.paint(stage.upright(g - (low + (high - low) * tall) * (g / 0.6).clamp(max=1.1), g), colour)


def room(stage: Stage) -> None:
    g = stage.ground
    wall = stage.shade(0xF5DCC0, 0xF2C9B8, 0xCFE3D4, 0xC8DCEC, 0xE3D3EA, 0xF4E6B8)
    stage.fill(wall)
    paper = stage.edge((((stage.x + stage.pick()) / 0.16) % 1 - 0.5).abs() * 0.16 - 0.04)
    stage.paint(paper * 0.3 * stage.chance(0.5), stage.constant((1.0, 1.0, 1.0)))
    # A window on one side.
    left = stage.chance(0.5)
    x = torch.lerp(0.76 * stage.ground.new_ones(()), 0.24 * stage.ground.new_ones(()), left) * stage.width + stage.pick(
        -0.04, 0.04
    )
    y = g * stage.pick(0.4, 0.48)
    half_w, half_h = stage.pick(0.11, 0.15), torch.minimum(stage.pick(0.13, 0.18), g * 0.32)
    dx, dy = (stage.x - x).abs(), (stage.y - y).abs()

    def box(w: Tensor, h: Tensor) -> Tensor:
        return stage.edge(torch.minimum(w - dx, h - dy))

    stage.paint(box(half_w + 0.022, half_h + 0.022), stage.constant(rgb(0xFFFFFF)))
    pane = box(half_w, half_h)
    v = ((stage.y - y) / (2 * half_h) + 0.5).clamp(0, 1)
    stage.picture.lerp_(torch.lerp(stage.constant(rgb(0x74BDF0)), stage.constant(rgb(0xCDEBFA)), v), pane)
    stage.paint(pane * stage.below(y + half_h * 0.55 + stage.waves((0.015, 2.0))), stage.constant(rgb(0x8CCB74)))
    stage.paint(box(half_w, half_h) * stage.edge(0.008 - torch.minimum(dx, dy)), stage.constant(rgb(0xFFFFFF)))
    # A framed picture on the other.
    x = stage.width - x
    size = stage.pick(0.06, 0.09)
    dx, dy = (stage.x - x).abs(), (stage.y - y).abs()
    shown = stage.chance(0.7)
    stage.paint(box(size + 0.016, size * 1.2 + 0.016) * shown, stage.constant(rgb(0x8A5A34)))
    stage.paint(box(size, size * 1.2) * shown, stage.constant(rgb(0xFBF3E2)))
    stage.paint(box(size * 0.62, size * 0.75) * shown, stage.shade(0xE58B6B, 0x7FB7BE, 0xE9C46A, 0x93B48B))
    # Skirting and floor.
    stage.paint(stage.below(g - 0.03), stage.constant(rgb(0xFFFFFF)))
    stage.paint(stage.below(g), stage.shade(0xB98454, 0xC99A6A, 0xA9744A) * 0.72)
    wood = stage.shade(0xC68E5A, 0xD3A574, 0xB67E52)
    stage.layer(g + 0.008, wood * 0.94, wood, 0.35)
    depth = ((stage.y - g) / 0.1).clamp(min=0)
    plank = (depth + 0.12 * depth * depth) / 0.62
    row = plank.floor()
    line = (plank - row - 0.5).abs()
    stage.paint((stage.edge((line - 0.445) * 0.09) * (row > 0) + (row > 0) * 0).clamp(0, 1) * 0.55, wood * 0.72)


def space(stage: Stage) -> None:
    top, low = stage.shade(0x0A0A2A, 0x120A30, 0x071426), stage.shade(0x1C1450, 0x2A1456, 0x0E2A50)
    stage.picture.copy_(torch.lerp(top, low, (stage.y / stage.height)))
    cloud = ((stage.noise(3) - 0.42) * 2.2).clamp(0, 1)
    stage.paint(cloud * 0.5, stage.shade(0x6A3FB5, 0xB0428F, 0x2F6FC4))
    second = ((stage.noise(4) - 0.55) * 2.5).clamp(0, 1)
    stage.paint(second * 0.35, stage.shade(0x3FB8C4, 0xE0609A, 0x5A7CF0))
    _stars(stage, 0.085, 0.5, 1.0)
    shown = stage.chance(0.6)
    radius = stage.pick(0.25, 0.4)
    x = stage.chance(0.5) * stage.width + stage.pick(-0.06, 0.06)
    y = stage.height + stage.pick(-0.02, 0.12)
    colour = stage.shade(0xE88B5A, 0xC46AA8, 0x5AA6D8, 0x8AC48A)
    body = stage.disc(x, y, radius) * shown
    stage.paint(stage.glow(x, y, 0.55) * 0.35 * shown, colour)
    stage.paint(body, colour)
    band = stage.edge((((stage.y - y) + 0.25 * (stage.x - x)) * 11).sin() * 0.03 - 0.012)
    stage.paint(body * band * 0.35, colour * 0.65)
    stage.paint(body * (1 - stage.disc(x - 0.05, y - 0.06, radius)) * 0.55, colour * 0.35)


def underwater(stage: Stage) -> None:
    top, low = stage.shade(0x5CC8E4, 0x54D0DA), stage.shade(0x0D4F92, 0x0E5A8C)
    v = stage.y / stage.height
    stage.picture.copy_(torch.lerp(top, low, v.sqrt()))
    slant = stage.x + stage.pick(0.25, 0.45) * stage.y
    for _ in range(4):
        x = stage.pick(-0.05, 1.25) * stage.width
        half = stage.pick(0.025, 0.06) + 0.05 * stage.y
        ray = ((half - (slant - x).abs()) / 0.035).clamp(0, 1)
        stage.paint(ray * (0.85 - v).clamp(0, 1) * 0.3, stage.constant(rgb(0xE6FFFF)))
    g = 0.84 * stage.height
    stage.layer(
        g - 0.05 + stage.waves((0.03, 0.8), (0.01, 2.0)),
        stage.constant(rgb(0x2F86A8)),
        stage.constant(rgb(0x1F6A92)),
        0.2,
    )
    _weeds(stage, g + 0.03)
    stage.layer(
        g + stage.waves((0.018, 0.7), (0.006, 1.7)), stage.constant(rgb(0xE0CB94)), stage.constant(rgb(0xA8A07C)), 0.2
    )
    dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, 0.19, 0.19, 3)
    x, y = dx - (a - 0.5) * 0.13, dy - (b - 0.5) * 0.13
    radius = 0.009 + 0.018 * (c / 0.35)
    far = (x * x + y * y).sqrt()
    shown = (c < 0.35) * (stage.y - y < g - 0.09)
    stage.paint(stage.edge(radius - far) * shown * 0.28, stage.constant(rgb(0xFFFFFF)))
    ring = stage.edge(0.0035 - (far - radius).abs())
    stage.paint(ring * shown * 0.75, stage.constant(rgb(0xE8FBFF)))


def _weeds(stage: Stage, base: float) -> None:
    for _ in range(4):
        x = stage.pick(0.03, 0.97) * stage.width
        high = stage.pick(0.12, 0.3)
        up = ((base - stage.y) / high).clamp(0, 1)
        bent = x + 0.016 * (stage.y * 34 + TAU * stage.pick()).sin() * up
        stage.paint(
            stage.edge(0.017 * (1 - up).sqrt() - (stage.x - bent).abs()) * (stage.y < base) * (up < 0.99),
            stage.shade(0x1F8A6A, 0x2FA06A, 0x1C7A78),
        )


PAINTERS: dict[str, Callable[[Stage], None]] = {
    one.__name__: one
    for one in (
        plain, gradient, stripes, dots, checks, sky, meadow, sea, beach, desert, snow, mountains, forest, city, room,
        space, underwater,
    )
}  # fmt: skip
"""How to paint each of BACKGROUNDS."""


def paint_background(
    picture: Tensor,
    kind: str,
    time: str,
    seeds: Tensor,
    horizons: Tensor,
    colours: Tensor,
    grey: Tensor,
    outdoors: bool,
) -> None:
    """Paint pictures of one kind and time of day over.

    picture [B, 3, H, W], changed in place; seeds int64 [B]; horizons [B]; colours [B, 2, 3], 0 to 1; grey [B]: 1 where
    it rains or snows.
    """
    names: Sequence[str] = tuple(PAINTERS)
    stage = Stage(picture, seeds, horizons, colours, time, names.index(kind))
    if outdoors:
        draw_sky(stage, grey[:, None, None, None], kind == "sky")
    PAINTERS[kind](stage)
    if outdoors:
        stage.picture.lerp_(luma(picture) * 0.92, grey[:, None, None, None] * 0.4)


def draw_rain(picture: Tensor, seeds: Tensor) -> None:
    """Slanted streaks over whole pictures [B, 3, H, W], in place."""
    stage = Stage(picture, seeds, seeds.new_zeros(len(seeds)).float(), picture.new_zeros(len(seeds), 2, 3), "day", 40)
    for wide, high, long, thick, opacity in ((0.075, 0.17, 0.07, 0.0035, 0.5), (0.12, 0.26, 0.11, 0.0045, 0.6)):
        dx, dy, (a, b, c) = stage.cells(stage.x + 0.28 * stage.y, stage.y, wide, high, 3)
        x, y = dx - (a - 0.5) * wide * 0.8, dy - (b - 0.5) * (high - long)
        mask = stage.edge(thick - x.abs()) * stage.edge(long / 2 - y.abs()) * (c < 0.75)
        stage.paint(mask * opacity, stage.constant(rgb(0xDCEBF8)))


def draw_snowfall(picture: Tensor, seeds: Tensor) -> None:
    """Soft white flakes over whole pictures [B, 3, H, W], in place."""
    stage = Stage(picture, seeds, seeds.new_zeros(len(seeds)).float(), picture.new_zeros(len(seeds), 2, 3), "day", 41)
    for pitch, small, large, share in ((0.085, 0.006, 0.009, 0.55), (0.15, 0.011, 0.016, 0.6)):
        dx, dy, (a, b, c) = stage.cells(stage.x, stage.y, pitch, pitch, 3)
        room_left = pitch - 2 * large - 0.01
        far = ((dx - (a - 0.5) * room_left) ** 2 + (dy - (b - 0.5) * room_left) ** 2).sqrt()
        radius = small + (large - small) * c / share
        mask = ((radius - far) / 0.006 + 0.5).clamp_(0, 1) * (c < share)
        stage.paint(mask * 0.9, stage.constant((1.0, 1.0, 1.0)))
