"""Looks at every picture of a data set before a training: sizes, buckets, duplicates, what is odd."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from gesso.errors import GessoError
from gesso.hints.levels import on_white
from gesso.pictures.reading import FORMATS, read_layer, read_mask
from gesso.tuning.buckets import BucketRules, Framing, framing
from gesso.tuning.dataset import DataSet, Example, Subset
from gesso.tuning.marks import Reservations, marks_of

# Pictures that are one picture, scaled or saved again: bits of 64 and levels of 255 in which their looks differ.
ALIKE_BITS, ALIKE_LEVELS = 6, 6
THUMB = 16  # pixels a side
SMALL = 0.99  # of a bucket's side: below, a picture is enlarged
VISIBLE = 250  # alpha below which a picture has something transparent


@dataclass(frozen=True, kw_only=True)
class Found:
    """One picture that can be read.

    digest   SHA-256 of the file's bytes, and of its mask's
    size     (width, height) in pixels, upright
    framing  in pixels of the VAE's picture
    scale    from pixels of the VAE's picture to those of the finished one
    """

    example: Example
    subset: Subset
    digest: str
    size: tuple[int, int]
    look: np.ndarray
    framing: Framing
    scale: int
    has_mask: bool

    @property
    def is_enlarged(self) -> bool:
        """Whether it is smaller than its bucket."""
        return min(now / was for now, was in zip(self.size, self.framing.scaled, strict=True)) < SMALL * self.scale


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a data set holds.

    unreadable  files that are left out, with the reason
    animated, deep, cmyk  pictures of which the first frame, the nearest 8 bits or the colours in sRGB are taken
    twins       groups of the same file; alike: groups that look the same
    reserved    pictures whose owners reserve that they be trained on, and by which mark
    generated   pictures to learn that say an AI made them
    """

    data: DataSet
    found: tuple[Found, ...]
    unreadable: tuple[tuple[Path, str], ...]
    animated: tuple[Path, ...]
    deep: tuple[Path, ...]
    cmyk: tuple[Path, ...]
    twins: tuple[tuple[Path, ...], ...]
    alike: tuple[tuple[Path, ...], ...]
    reserved: tuple[tuple[Path, str], ...] = ()
    generated: tuple[Path, ...] = ()

    @property
    def own(self) -> tuple[Found, ...]:
        """Pictures to learn."""
        return tuple(one for one in self.found if not one.subset.is_reg)

    @property
    def reg(self) -> tuple[Found, ...]:
        """Pictures of the class."""
        return tuple(one for one in self.found if one.subset.is_reg)

    @property
    def enlarged(self) -> tuple[Found, ...]:
        """Pictures smaller than their bucket."""
        return tuple(one for one in self.found if one.is_enlarged)

    @property
    def fingerprint(self) -> str:
        """A hash of everything in the data set that a training sees."""
        rows = [
            repr((one.digest, one.example.caption, replace(one.subset, where=Path()), one.framing, one.has_mask))
            for one in self.found
        ]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def survey(
    data: DataSet,
    rules: BucketRules,
    *,
    scale: int = 1,
    masks: bool = True,
    include_reserved: bool = False,
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> Survey:
    """Read every picture of a data set once.

    rules  of subsets that have none of their own; in pixels of finished pictures
    scale  from pixels of the VAE's picture to those of the finished one
    include_reserved  pictures that are reserved take part, too; without, they are left out
    Raises GessoError where no picture to learn can be read.
    """
    sizes: dict[BucketRules, list[tuple[int, int]]] = {}
    found: list[Found] = []
    unreadable: list[tuple[Path, str]] = []
    reserved: list[tuple[Path, str]] = []
    generated: list[Path] = []
    reservations = Reservations()
    odd: dict[str, list[Path]] = {"animated": [], "deep": [], "cmyk": []}
    for number, example in enumerate(data.examples):
        subset = data.subsets[example.subset]
        own = subset.buckets or rules
        marks = marks_of(example.path, reservations, data.root_of(example))
        if marks.reserved:
            reserved.append((example.path, marks.reserved))
            if not include_reserved:
                continue
        if marks.generated and not subset.is_reg:
            generated.append(example.path)
        if own not in sizes:
            sizes[own] = own.sizes()
        try:
            image, mask = read_example(example, use_alpha=masks and subset.use_alpha, use_mask=masks)
            for kind in _oddities(example.path):
                odd[kind].append(example.path)
            digest = _digest(example, masks)
        except GessoError as error:
            unreadable.append((example.path, error.message.removeprefix(f"{example.path}: ")))
            continue
        placed = framing(image.size, own, sizes[own])
        found.append(
            Found(
                example=example,
                subset=subset,
                digest=digest,
                size=image.size,
                look=look_of(image),
                framing=_shrunk(placed, scale),
                scale=scale,
                has_mask=mask is not None,
            )
        )
        on_picture(number + 1, len(data.examples))
    if not any(not one.subset.is_reg for one in found):
        if not unreadable:
            path, by = reserved[0]
            raise GessoError(
                f"{path}: is reserved ({by}), as all pictures of the data set are. Train on others, or give "
                "`include_reserved` where you have the right to",
                code="reserved",
                field="include_reserved",
            )
        path, reason = unreadable[0]
        raise GessoError(f"{path}: {reason}. No picture of the data set can be read", code="damaged")
    twins = _groups({id(one): one.digest for one in found}, found)
    return Survey(
        data=data,
        found=tuple(found),
        unreadable=tuple(unreadable),
        animated=tuple(odd["animated"]),
        deep=tuple(odd["deep"]),
        cmyk=tuple(odd["cmyk"]),
        twins=twins,
        alike=_alike(found),
        reserved=tuple(reserved),
        generated=tuple(generated),
    )


def read_example(
    example: Example, *, use_alpha: bool = True, use_mask: bool = True
) -> tuple[Image.Image, Image.Image | None]:
    """A picture in RGB, upright, what is transparent on white; and its mask in grey levels, of the same size.

    Raises GessoError as `read_layer`, and for a mask of another aspect ratio.
    """
    layer = read_layer(example.path)
    mask = None
    if example.mask is not None and use_mask:
        mask = read_mask(example.mask)
        if abs(mask.width / mask.height - layer.width / layer.height) > 0.02 * layer.width / layer.height:
            raise GessoError(
                f"{example.path}: is {layer.width}x{layer.height}, its mask {example.mask.name} is "
                f"{mask.width}x{mask.height}. Make them the same size",
                code="mismatch",
            )
        mask = mask if mask.size == layer.size else mask.resize(layer.size, Image.Resampling.BILINEAR)
    elif use_alpha and layer.mode == "RGBA" and np.asarray(layer.getchannel("A")).min() < VISIBLE:
        mask = layer.getchannel("A")
    return on_white(layer), mask


def framed(image: Image.Image, placed: Framing, *, flip: bool, nearest: bool = False) -> Image.Image:
    """A picture or mask scaled and cropped to its bucket, mirrored or not. nearest: with no colour that is new"""
    box = (placed.left, placed.top, placed.left + placed.bucket[0], placed.top + placed.bucket[1])
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    scaled = image.resize(placed.scaled, how).crop(box)
    return scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else scaled


def look_of(image: Image.Image) -> np.ndarray:
    """A picture at 16 x 16 points, which hardly change when it is scaled or saved again: int16 [16, 16, 3]."""
    return np.asarray(image.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX), dtype=np.int16)


def _shrunk(placed: Framing, scale: int) -> Framing:
    if scale == 1:
        return placed
    bucket = placed.bucket[0] // scale, placed.bucket[1] // scale
    scaled = max(round(placed.scaled[0] / scale), bucket[0]), max(round(placed.scaled[1] / scale), bucket[1])
    return Framing(bucket, scaled, (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)


def _oddities(path: Path) -> list[str]:
    with Image.open(path, formats=FORMATS) as image:
        kinds = ["animated"] if getattr(image, "n_frames", 1) > 1 and image.format != "MPO" else []
        if image.mode.startswith("I") or image.mode == "F":
            kinds.append("deep")
        return [*kinds, "cmyk"] if image.mode == "CMYK" else kinds


def _digest(example: Example, masks: bool) -> str:
    hashed = hashlib.sha256(example.path.read_bytes())
    if masks and example.mask is not None:
        hashed.update(hashlib.sha256(example.mask.read_bytes()).digest())
    return hashed.hexdigest()


def _groups(keys: Mapping[int, str], found: Sequence[Found]) -> tuple[tuple[Path, ...], ...]:
    by_key: dict[str, list[Path]] = {}
    for one in found:
        by_key.setdefault(keys[id(one)], []).append(one.example.path)
    return tuple(tuple(paths) for paths in by_key.values() if len(paths) > 1)


def _alike(found: Sequence[Found]) -> tuple[tuple[Path, ...], ...]:
    """Groups that look the same and are not the same file.

    Two signs must agree: which points are lighter than their neighbours, which a change of brightness leaves, and the
    colours themselves, since flat pictures agree in the first by chance.
    """
    if len(found) < 2:
        return ()
    looks = np.stack([one.look for one in found])
    grey = looks.sum(axis=3).reshape(len(found), THUMB // 2, 2, THUMB // 2, 2).sum(axis=(2, 4))
    bits = (grey > np.roll(grey, 1, axis=2)).reshape(len(found), -1)
    group = list(range(len(found)))
    for place in range(len(found) - 1):
        near = np.flatnonzero((bits[place + 1 :] != bits[place]).sum(axis=1) <= ALIKE_BITS) + place + 1
        levels = np.abs(looks[near] - looks[place]).mean(axis=(1, 2, 3))
        for other in near[levels <= ALIKE_LEVELS]:
            group[int(other)] = group[place]
    members: dict[int, list[Found]] = {}
    for place, leader in enumerate(group):
        members.setdefault(leader, []).append(found[place])
    return tuple(
        tuple(one.example.path for one in some)
        for some in members.values()
        if len(some) > 1 and len({one.digest for one in some}) > 1
    )


def bucket_counts(found: Sequence[Found]) -> dict[tuple[int, int], int]:
    """Pictures, repeats counted, by bucket in pixels of finished pictures."""
    counts: Counter[tuple[int, int]] = Counter()
    for one in found:
        width, height = one.framing.bucket
        counts[width * one.scale, height * one.scale] += one.subset.repeats
    return dict(sorted(counts.items()))
