"""The judge of composed scenes: says which objects stand where, in which colours, in front of what and in which style.

Anchor-free: a grid of cells says where the middle of an object is, and there which object and which tint
(Zhou et al. 2019, "Objects as Points", arXiv:1904.07850); heads over the whole picture say the rest.

Shapes: B batch, S side of the input (256), G side of the grid (32), N objects of the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.mini.scene_pool import ScenePictures
from gesso.training.muon import split_groups
from gesso.training.task import Enter, Figures, generator_for
from gesso.world.scene import BACKDROPS, BACKGROUNDS, COLOURS, PLAIN, STYLES, TIMES, WEATHERS, SceneLayout, lay_out

INPUT_SIZE, GRID_SIZE = 256, 32
SPREAD = 1.0  # deviation in cells of the target around the middle of an object
TINTS: tuple[str | None, ...] = (None, *COLOURS)
WHOLE = {
    "kind": len(BACKGROUNDS),
    "first": len(BACKDROPS),
    "second": len(BACKDROPS),
    "time": len(TIMES),
    "weather": len(WEATHERS),
    "style": len(STYLES),
}
"""What is said of the whole picture -> number of answers."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Sizes of the network."""

    num_things: int
    channels: tuple[int, int, int, int] = (32, 64, 128, 192)  # at 1/4, 1/8, 1/16, 1/32 of the input
    num_blocks: tuple[int, int, int, int] = (1, 2, 3, 2)
    head_channels: int = 160


class Block(nn.Module):
    """Two convolutions around a skip, with group norm.  [B, C, H, W] -> the same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), nn.ReLU(), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.GroupNorm(8, channels_out))


class SceneJudge(nn.Module):
    """Pixels to maps of middles and features, and scores of the whole picture."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d = config.channels
        blocks = config.num_blocks
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), _conv(48, a), nn.ReLU(), *(Block(a) for _ in range(blocks[0])))
        self.eighth = nn.Sequential(_conv(a, b, 2), nn.ReLU(), *(Block(b) for _ in range(blocks[1])))
        self.sixteenth = nn.Sequential(_conv(b, c, 2), nn.ReLU(), *(Block(c) for _ in range(blocks[2])))
        self.deepest = nn.Sequential(_conv(c, d, 2), nn.ReLU(), *(Block(d) for _ in range(blocks[3])))
        head = config.head_channels
        self.from_deepest = nn.Conv2d(d, head, 1)
        self.from_sixteenth = nn.Conv2d(c, head, 1)
        self.from_eighth = nn.Conv2d(b, head, 1)
        self.merge = nn.Sequential(nn.ReLU(), _conv(head, head), nn.ReLU(), Block(head))
        self.middle = nn.Conv2d(head, 1, 1)
        self.features = nn.Conv2d(head, head, 1)
        self.thing = nn.Linear(head, config.num_things)
        self.tint = nn.Linear(head, len(TINTS))
        self.whole = nn.Sequential(nn.Linear(2 * d + c, d), nn.ReLU(), nn.Linear(d, sum(WHOLE.values())))
        assert self.middle.bias is not None
        nn.init.constant_(self.middle.bias, -4.0)  # most cells are no middle

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, S, S] in [-1, 1] -> logits of middles [B, G, G], features [B, head, G, G], whole [B, sum of WHOLE]"""
        eighth = self.eighth(self.stem(pixels))
        sixteenth = self.sixteenth(eighth)
        deepest = self.deepest(sixteenth)
        up = F.interpolate(self.from_deepest(deepest), scale_factor=2.0) + self.from_sixteenth(sixteenth)
        merged = self.merge(F.interpolate(up, scale_factor=2.0) + self.from_eighth(eighth))
        pooled = torch.cat([deepest.mean((2, 3)), deepest.amax((2, 3)), sixteenth.mean((2, 3))], dim=1)
        return self.middle(merged)[:, 0], F.relu(self.features(merged)), self.whole(pooled)


_ROW_OF_COLOUR = {colour: row for row, colour in enumerate(BACKDROPS.values())}


@dataclass(frozen=True)
class Truth:
    """What a batch of scenes shows, as the judge should say it; M objects in all.

    rows, cells  int64 [M], picture and cell (row * G + column) of each object
    things, tints  int64 [M]
    middles  float32 [B, G, G]
    whole  name of WHOLE -> int64 [B], -100 where the question makes no sense
    """

    rows: Tensor
    cells: Tensor
    things: Tensor
    tints: Tensor
    middles: Tensor
    whole: Mapping[str, Tensor]


def truth_of(layout: SceneLayout, device: torch.device) -> Truth:
    """The answers for scenes of square pictures."""
    rows, columns = np.nonzero(layout.things >= 0)
    at = layout.places[rows, columns, :2] * GRID_SIZE
    cells = np.clip(np.floor(at), 0, GRID_SIZE - 1).astype(np.int64)
    axis = np.arange(GRID_SIZE) + 0.5
    across = np.exp(-((axis - (cells[:, :1] + 0.5)) ** 2) / (2 * SPREAD**2))
    down = np.exp(-((axis - (cells[:, 1:] + 0.5)) ** 2) / (2 * SPREAD**2))
    middles = np.zeros((len(layout), GRID_SIZE, GRID_SIZE), dtype=np.float32)
    np.maximum.at(middles, rows, (down[:, :, None] * across[:, None, :]).astype(np.float32))
    plain = layout.kinds < len(PLAIN)
    colours = np.array([[_ROW_OF_COLOUR[tuple(one)] for one in pair] for pair in layout.colours.tolist()])
    outdoors = layout.kinds >= len(PLAIN)
    whole = {
        "kind": layout.kinds,
        "first": np.where(plain, colours[:, 0], -100),
        "second": np.where(plain & (layout.kinds > 0), colours[:, 1], -100),
        "time": np.where(outdoors, layout.times, -100),
        "weather": np.where(outdoors, layout.weathers, -100),
        "style": layout.styles,
    }

    def there(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)

    return Truth(
        there(rows.astype(np.int64)),
        there(cells[:, 1] * GRID_SIZE + cells[:, 0]),
        there(layout.things[rows, columns].astype(np.int64)),
        there(layout.tints[rows, columns].astype(np.int64) + 1),
        there(middles),
        {name: there(values.astype(np.int64)) for name, values in whole.items()},
    )


class JudgeTask:
    """Teaches the judge: middles by a focal loss, the rest by cross-entropy.

    Pictures are blurred, disturbed and, through `smear` (an autoencoder's round trip), drawn as a model would draw
    them, so that it judges what is in a picture and not how clean it is.
    """

    def __init__(
        self, judge: SceneJudge, pictures: ScenePictures, smear: nn.Module | None, report_pictures: int
    ) -> None:
        self.judge, self.pictures, self.smear, self.report_pictures = judge, pictures, smear, report_pictures
        self.precision: Enter = torch.no_grad  # replaced by the loop
        self.modules: Mapping[str, nn.Module] = {"judge": judge}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return split_groups(self.judge, learning_rate, [self.judge.stem[1], self.judge.thing, self.judge.middle])

    def networks(self) -> list[nn.Module]:
        return [self.judge]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        layout, pixels = self.pictures.batch(step, batch_size, seed)
        pixels = self.disturbed(pixels, generator_for(seed, step, 5, device=pixels.device))
        truth = truth_of(layout, pixels.device)
        with self.precision():
            middle, features, whole = self.judge(pixels)
            at = features.flatten(2)[truth.rows, :, truth.cells]
            thing, tint = self.judge.thing(at), self.judge.tint(at)
        middle = middle.float()
        found, target = middle.sigmoid(), truth.middles
        hit = target >= 0.999
        weight = torch.where(hit, (1 - found) ** 2, found**2 * (1 - target) ** 4)
        focal = (weight * F.binary_cross_entropy_with_logits(middle, hit.float(), reduction="none")).sum()
        focal = focal / len(truth.rows)
        kinds = F.cross_entropy(thing.float(), truth.things, label_smoothing=0.05)
        tints = F.cross_entropy(tint.float(), truth.tints)
        parts = whole.float().split(list(WHOLE.values()), dim=1)
        rest = torch.stack(
            [
                F.cross_entropy(part, truth.whole[name], ignore_index=-100, reduction="sum") / len(part)
                for name, part in zip(WHOLE, parts, strict=True)
            ]
        ).sum()
        right = (thing.argmax(1) == truth.things).float().mean()
        loss = focal + kinds + tints + 0.5 * rest
        return loss, {"loss": loss.detach(), "focal": focal.detach(), "right": right, "rest": rest.detach()}

    @torch.no_grad()
    def disturbed(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """A third of the pictures through the autoencoder, a third blurred, all with a little noise."""
        device = pixels.device
        third = len(pixels) // 3
        parts = [pixels[:third], pixels[third : 2 * third], pixels[2 * third :]]
        if self.smear is not None and third:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                parts[0] = self.smear(parts[0]).float()
        if third:
            small = F.interpolate(parts[1], scale_factor=0.5, mode="area")
            parts[1] = F.interpolate(small, scale_factor=2.0, mode="bilinear")
        out = torch.cat(parts)
        share = 0.1 * torch.rand((len(out), 1, 1, 1), generator=generator, device=device)
        return out + share * torch.randn(out.shape, generator=generator, device=device)

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Shares right on fresh, undisturbed pictures, at the true middles."""
        layout = lay_out(self.pictures.scenes(self.report_pictures, 10**9))
        pixels = self.pictures.pixels(layout)
        truth = truth_of(layout, pixels.device)
        outputs = [self.judge(part) for part in pixels.split(64)]
        features = torch.cat([one[1] for one in outputs]).float()
        whole = torch.cat([one[2] for one in outputs]).float()
        at = features.flatten(2)[truth.rows, :, truth.cells]
        figures = {
            "thing": float((self.judge.thing(at).argmax(1) == truth.things).float().mean()),
            "tint": float((self.judge.tint(at).argmax(1) == truth.tints).float().mean()),
        }
        for name, part in zip(WHOLE, whole.split(list(WHOLE.values()), dim=1), strict=True):
            asked = truth.whole[name] >= 0
            figures[name] = float((part.argmax(1) == truth.whole[name])[asked].float().mean())
        return figures
