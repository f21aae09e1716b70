"""The judge's object detector: finds the objects of the table in a small picture, with positions and tints.

Anchor-free: a grid of cells says where the middle of an object is, and there which object and which tint
(Zhou et al. 2019, "Objects as Points", arXiv:1904.07850). Objects that are none of the table, or too smeared to be
told, are a class of their own, so that the judge is not forced to see in a blob what the prompt asks for.

Shapes: B batch, S side of the input (64), G side of the grid (16), N objects of the table.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gesso.errors import GessoError, shorten
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS, Thing

INPUT_SIZE, GRID_SIZE = 64, 16
TINTS: tuple[str | None, ...] = (None, *COLOURS)  # None: the object's own colours
FORMAT, VERSION = "gesso-detector", 1
EMBEDDED = "detector.safetensors"  # in gesso/data
MIN_OBJECTNESS = 0.4  # a peak below this is nothing
MIN_CONFIDENCE = 0.5  # of the most likely object, else it is none of the table
PEAK_RADIUS = 4  # cells, 16 px: of two peaks this near one is dropped; composed objects keep 28 px between them
BORDER_TOLERANCE = 70.0  # distance in RGB at which a colour no longer counts as a background of the table
BORDER_SHARE = 0.5  # of the border that must show the background's colour


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Sizes of the network."""

    num_things: int
    channels: tuple[int, int, int, int] = (16, 40, 96, 144)  # at 1/2, 1/4, 1/8, 1/16 of the input
    num_blocks: tuple[int, int, int] = (1, 3, 1)  # at 1/4, 1/8, 1/16
    head_channels: int = 64


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class Block(nn.Module):
    """Two convolutions around a skip.  [B, C, H, W] -> the same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


@dataclass(frozen=True)
class Scores:
    """The network's output for every cell, before the softmax."""

    middle: Tensor  # [B, G, G] whether the middle of an object is here
    thing: Tensor  # [B, N + 1, G, G]; the last is "none of these"
    tint: Tensor  # [B, len(TINTS), G, G]


class Detector(nn.Module):
    """pixels [B, 3, S, S] in [-1, 1] -> Scores"""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        c, blocks, head = config.channels, config.num_blocks, config.head_channels
        self.stem = convolution(3, c[0], 2)
        self.quarter = nn.Sequential(convolution(c[0], c[1], 2), *(Block(c[1]) for _ in range(blocks[0])))
        self.eighth = nn.Sequential(convolution(c[1], c[2], 2), *(Block(c[2]) for _ in range(blocks[1])))
        self.sixteenth = nn.Sequential(convolution(c[2], c[3], 2), *(Block(c[3]) for _ in range(blocks[2])))
        self.from_sixteenth = nn.Conv2d(c[3], c[2], 1)
        self.from_eighth = nn.Conv2d(c[2], head, 1)
        self.from_quarter = nn.Conv2d(c[1], head, 1)
        self.fuse = convolution(head, head)
        self.head = nn.Conv2d(head, 1 + config.num_things + 1 + len(TINTS), 1)
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.bias[0] = -4.0  # most cells are empty: start from there

    def forward(self, pixels: Tensor) -> Scores:
        quarter = self.quarter(self.stem(pixels))
        eighth = self.eighth(quarter)
        eighth = eighth + F.interpolate(self.from_sixteenth(self.sixteenth(eighth)), scale_factor=2.0)
        fused = F.interpolate(self.from_eighth(eighth), scale_factor=2.0) + self.from_quarter(quarter)
        scores = self.head(self.fuse(F.relu(fused)))
        middle, thing, tint = scores.split([1, self.config.num_things + 1, len(TINTS)], dim=1)
        return Scores(middle[:, 0], thing, tint)


def channels_last(detector: Detector) -> Detector:
    """The same detector with its weights laid out for the quicker convolutions."""
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotations leave it out
    return detector


@dataclass(frozen=True)
class DetectedObject:
    """One object in a picture; x and y are shares of its side."""

    thing: int | None  # row of the object table; None where it is none of them
    x: float
    y: float
    tint: str | None = None  # None: its own colours
    confidence: float = 1.0


@dataclass(frozen=True)
class Detection:
    """The objects and the background detected in a picture."""

    background: str | None  # one of BACKGROUNDS, None where the border has no such colour
    objects: tuple[DetectedObject, ...]


def to_input(images: np.ndarray) -> Tensor:
    """Pictures as the detector takes them, larger ones shrunk by averaging.

    uint8 [B, H, H, 3], H >= 64 -> float [B, 3, 64, 64] in [-1, 1]. Raises ValueError for other shapes.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"pictures are uint8 [B, H, W, 3], found {images.dtype} {list(images.shape)}")
    height, width = images.shape[1:3]
    if height != width or height < INPUT_SIZE:
        raise ValueError(f"pictures are {width} x {height}, expected squares of {INPUT_SIZE} or more")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if height != INPUT_SIZE:
        pixels = F.adaptive_avg_pool2d(pixels, INPUT_SIZE).round()  # rounded: as a picture of that size would be
    return pixels.div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def detect(detector: Detector, images: np.ndarray, batch_size: int = 64) -> list[Detection]:
    """uint8 [B, H, H, 3], H >= 64 -> what is seen in each picture.  The detector must be in eval mode."""
    if detector.training:
        raise ValueError("the detector is in training mode; call eval() first")
    detections: list[Detection] = []
    for start in range(0, len(images), batch_size):
        pixels = to_input(images[start : start + batch_size])
        scores = detector(pixels)
        for row, background in enumerate(backgrounds_of(pixels)):
            one = Scores(scores.middle[row], scores.thing[row], scores.tint[row])
            detections.append(Detection(background, read_scores(one)))
    return detections


def read_scores(scores: Scores) -> tuple[DetectedObject, ...]:
    """Scores of one picture (no batch) -> its objects, the most certain first."""
    objectness = scores.middle.sigmoid()
    largest = F.max_pool2d(objectness[None, None], 2 * PEAK_RADIUS + 1, 1, PEAK_RADIUS)[0, 0]
    rows, columns = ((objectness == largest) & (objectness >= MIN_OBJECTNESS)).nonzero(as_tuple=True)
    objects = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        likely, thing = scores.thing[:, row, column].softmax(0).max(0)
        known = int(thing) < len(scores.thing) - 1 and float(likely) >= MIN_CONFIDENCE
        objects.append(
            DetectedObject(
                thing=int(thing) if known else None,
                x=(column + 0.5) / GRID_SIZE,
                y=(row + 0.5) / GRID_SIZE,
                tint=TINTS[int(scores.tint[:, row, column].argmax())],
                confidence=float(objectness[row, column] * likely),
            )
        )
    return tuple(sorted(objects, key=lambda one: -one.confidence))


def backgrounds_of(pixels: Tensor) -> list[str | None]:
    """The background that most of the outermost two rows and columns show.  [B, 3, S, S] in [-1, 1] -> B names"""
    levels = (pixels + 1) * 127.5
    border = torch.cat([levels[:, :, :2].flatten(2), levels[:, :, -2:].flatten(2),
                        levels[:, :, 2:-2, :2].flatten(2), levels[:, :, 2:-2, -2:].flatten(2)], dim=2)  # fmt: skip
    names = list(BACKGROUNDS)
    colours = torch.tensor([BACKGROUNDS[name] for name in names], dtype=torch.float32)
    distance, nearest = torch.cdist(border.transpose(1, 2), colours).min(dim=2)
    votes = F.one_hot(nearest, len(names)).masked_fill((distance > BORDER_TOLERANCE)[..., None], 0).float().mean(1)
    share, winner = votes.max(dim=1)
    return [names[int(name)] if float(part) >= BORDER_SHARE else None for name, part in zip(winner, share, strict=True)]


# ---- the file --------------------------------------------------------------------------------------------------------


def table_hash(things: Sequence[Thing]) -> str:
    """SHA-256 over glyphs and names of an object table, in order: what a detector's rows mean."""
    text = "\n".join(f"{thing.glyph}|{thing.name}" for thing in things)
    return hashlib.sha256(text.encode()).hexdigest()


def save_detector(
    path: Path,
    detector: Detector,
    things: Sequence[Thing],
    accuracy: Mapping[str, float],
    accuracy_unseen: Mapping[str, float],
    notes: Mapping[str, str],
) -> None:
    """Write a detector in half precision, whole or not at all; counters of the batch norms are left out.

    accuracy: share of fresh composed pictures judged right, by category; accuracy_unseen: the same on combinations that
    its training never showed. notes: further ModelSpec keys.
    """
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in _weights(detector).items()}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "config": asdict(detector.config),
        "things": table_hash(things),
        "accuracy": dict(accuracy),
        "accuracy_unseen": dict(accuracy_unseen),
    }
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": FORMAT,
        "modelspec.implementation": "gesso",
        "modelspec.title": "gesso judge of composed pictures",
        "modelspec.resolution": f"{INPUT_SIZE}x{INPUT_SIZE}",
        **{f"modelspec.{key}": value for key, value in notes.items()},
        FORMAT: json.dumps(about, sort_keys=True),
    }
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")


def _weights(detector: Detector) -> dict[str, Tensor]:
    """What the file holds: all but the batch norms' counters of steps."""
    return {name: tensor for name, tensor in detector.state_dict().items() if tensor.is_floating_point()}


@dataclass(frozen=True, eq=False)
class DetectorFile:
    """A loaded detector, in eval mode, with the metadata of its file."""

    detector: Detector
    accuracy: Mapping[str, float]  # by category, on fresh composed pictures, when it was made
    accuracy_unseen: Mapping[str, float]  # the same on combinations that its training never showed


def load_detector(things: Sequence[Thing], path: Path | None = None) -> DetectorFile:
    """Read a detector for this object table; without a path the one that the package carries.

    Raises GessoError where the file is not a detector, belongs to another object table, or does not fit its own sizes.
    """
    if path is None:
        with resources.as_file(resources.files("gesso") / "data" / EMBEDDED) as carried:
            return load_detector(things, carried)
    file = open_safetensors(path)
    config, accuracy, unseen = _about(path, file.metadata, things)
    with torch.device("meta"):
        skeleton = _weights(Detector(config))  # shapes are compared before memory is taken
    if set(skeleton) != set(file.tensors):
        name = min(set(skeleton) ^ set(file.tensors))
        message = f"its tensors do not fit its own sizes, {shorten(name)} first. {REMAKE}"
        raise ModelFileError("architecture_mismatch", path, message)
    for name, tensor in skeleton.items():
        if file.tensors[name].shape != tuple(tensor.shape):
            message = f"{name} is {list(file.tensors[name].shape)}, expected {list(tensor.shape)}. {REMAKE}"
            raise ModelFileError("architecture_mismatch", path, message)
    detector = Detector(config)
    with file.reader() as reader, torch.no_grad():
        for name, tensor in _weights(detector).items():
            tensor.copy_(reader[name])
            if not bool(tensor.isfinite().all()):
                raise ModelFileError("nonfinite", path, f"{name} holds numbers that are not finite. {REMAKE}")
    return DetectorFile(channels_last(detector).eval().requires_grad_(False), accuracy, unseen)


REMAKE = "Train another with: gesso evaluate train-judge"


def _about(
    path: Path, metadata: Mapping[str, str], things: Sequence[Thing]
) -> tuple[DetectorConfig, dict[str, float], dict[str, float]]:
    if FORMAT not in metadata:
        raise ModelFileError("architecture_mismatch", path, f"not a detector: its metadata lack {FORMAT!r}. {REMAKE}")
    try:
        about: Any = json.loads(metadata[FORMAT])
        layout = (about["format"], about["version"])
        config = DetectorConfig(
            num_things=_count(about["config"]["num_things"], 100_000),
            channels=_counts(about["config"]["channels"], 4),
            num_blocks=_counts(about["config"]["num_blocks"], 3),
            head_channels=_count(about["config"]["head_channels"], 4096),
        )
        accuracy, unseen = (
            {str(key): float(value) for key, value in about[name].items()} for name in ("accuracy", "accuracy_unseen")
        )
        table = str(about["things"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelFileError("config", path, f"the metadata {FORMAT!r} are damaged. {REMAKE}") from None
    if layout != (FORMAT, VERSION):
        message = f"format {layout[0]!r} version {layout[1]!r}, expected {FORMAT!r} version {VERSION}. {REMAKE}"
        raise ModelFileError("config", path, message)
    if config.num_things != len(things) or table != table_hash(things):
        raise GessoError(
            f"{path}: the judge was trained on another object table ({config.num_things} objects, {table[:8]}) than "
            f"the one in use ({len(things)} objects, {table_hash(things)[:8]}). {REMAKE}",
            code="other_training",
            data={"path": str(path)},
        )
    return config, accuracy, unseen


def _count(value: object, limit: int) -> int:
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(value)
    return value


def _counts(values: object, length: int) -> Any:
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(values)
    return tuple(_count(value, 4096) for value in values)
