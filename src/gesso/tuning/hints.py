"""What a ControlNet in training looks at: hints made from the pictures, or files of a folder with the same names."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.errors import GessoError, short
from gesso.hints import sizing
from gesso.hints.levels import on_white
from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
from gesso.pictures.reading import read_layer
from gesso.tuning.buckets import Framing
from gesso.tuning.dataset import PICTURES
from gesso.tuning.settings import TuningSettings
from gesso.tuning.survey import Found, framed, read_example

KEPT = 512 * 2**20  # bytes of hints that stay in memory
MAX_NAMES = 5


class Hints:
    """The hint of every picture, at the size of the finished one.

    folder      of hint files; None: a preprocessor makes them
    name        of the preprocessor; with a folder, of the one that made the files, or ""
    parameters  of the preprocessor that are not its defaults, "low=50"
    Raises GessoError for a preprocessor that cannot make a hint from a picture, and for pictures without a file.
    """

    def __init__(self, found: Sequence[Found], folder: Path | None, name: str, parameters: Sequence[str] = ()) -> None:
        self.found, self.folder = found, folder
        self.name = canonical(name) if name else ""
        self.parameters = dict(map(_parameter, parameters))
        self.files: dict[int, Path] = {}
        self._kept: OrderedDict[tuple[int, bool], Tensor] = OrderedDict()
        self._nbytes = 0
        if folder is not None:
            self._pair(folder)
        elif (row := PREPROCESSORS[self.name]).needs_mask or row.bring is not sizing.smooth:
            what = "needs a mask" if row.needs_mask else "passes on a map that something else made"
            raise GessoError(
                f"`hint` {short(self.name)}: {what}, so no picture alone will do. Give the hints as files: `hints`",
                code="unsuitable_hint",
                field="hint",
            )
        if folder is None:
            self.image(0, flip=False)  # unknown parameters and missing packages now, not in an hour

    def _pair(self, folder: Path) -> None:
        if not folder.is_dir():
            raise GessoError(
                f"{folder}: no such folder. Expected a hint for each picture, with its name",
                code="missing",
                data={"path": str(folder)},
            )
        missing = []
        for place, one in enumerate(self.found):
            stem = one.example.path.stem
            path = next((folder / f"{stem}{end}" for end in PICTURES if (folder / f"{stem}{end}").is_file()), None)
            if path is None:
                missing.append(one.example.path.name)
            else:
                self.files[place] = path
        if missing:
            more = f" and {len(missing) - MAX_NAMES} more" if len(missing) > MAX_NAMES else ""
            raise GessoError(
                f"{folder}: no hint for {', '.join(missing[:MAX_NAMES])}{more}. Expected a picture of the same name",
                code="missing",
                data={"path": str(folder)},
            )

    @property
    def can_redo(self) -> bool:
        """Whether a hint can be made of any picture, as these are made of theirs."""
        row = PREPROCESSORS.get(self.name)
        return row is not None and not row.needs_mask and row.bring is sizing.smooth

    def made_of(self, picture: Image.Image) -> Image.Image:
        """The hint of another picture at its size, RGB."""
        return preprocess(self.name, picture, None, self.parameters).convert("RGB")

    @property
    def fingerprint(self) -> str:
        """A hash of what follows from no setting: the files."""
        hashed = hashlib.sha256()
        for place in sorted(self.files):
            hashed.update(hashlib.sha256(self.files[place].read_bytes()).digest())
        return hashed.hexdigest() if self.files else ""

    def image(self, place: int, *, flip: bool) -> Image.Image:
        """The hint of a picture, framed as the picture is, RGB."""
        one = self.found[place]
        if place not in self.files:
            picture, _ = read_example(one.example, use_alpha=False, use_mask=False)
            return preprocess(self.name, framed(picture, _at_full_size(one), flip=flip), None, self.parameters)
        hint = on_white(read_layer(self.files[place]))
        if abs(hint.width / hint.height - one.size[0] / one.size[1]) > 0.02 * one.size[0] / one.size[1]:
            raise GessoError(
                f"{self.files[place]}: is {hint.width}x{hint.height}, its picture {one.size[0]}x{one.size[1]}. Make "
                "them the same size",
                code="mismatch",
                data={"path": str(self.files[place])},
            )
        nearest = bool(self.name) and PREPROCESSORS[self.name].bring is sizing.nearest
        return framed(hint, _at_full_size(one), flip=flip, nearest=nearest)

    def __call__(self, places: Sequence[int], flips: Sequence[bool]) -> Tensor:
        """The hints of a batch.  -> float32 [B, 3, h, w] in [0, 1] on the CPU"""
        return torch.stack([self._levels(place, flip) for place, flip in zip(places, flips, strict=True)]).float() / 255

    def _levels(self, place: int, flip: bool) -> Tensor:
        if (kept := self._kept.get((place, flip))) is not None:
            self._kept.move_to_end((place, flip))
            return kept
        made = torch.from_numpy(np.array(self.image(place, flip=flip).convert("RGB"))).permute(2, 0, 1).contiguous()
        self._kept[place, flip] = made
        self._nbytes += made.nbytes
        while self._nbytes > KEPT and len(self._kept) > 1:
            self._nbytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def hints_for(settings: TuningSettings, found: Sequence[Found]) -> Hints:
    """Those that completed settings ask for."""
    folder = Path(settings.hints).expanduser() if settings.hints else None
    return Hints(found, folder, settings.hint, settings.hint_parameters)


def _at_full_size(one: Found) -> Framing:
    """The framing of a picture, or of its hint, in pixels of the finished one."""
    placed, scale = one.framing, one.scale
    return Framing(
        (placed.bucket[0] * scale, placed.bucket[1] * scale),
        (placed.scaled[0] * scale, placed.scaled[1] * scale),
        placed.left * scale,
        placed.top * scale,
    )


def _parameter(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise GessoError(
            f"`hint_parameters` {short(text)}: expected a name and a number, such as low=50",
            code="invalid_value",
            field="hint_parameters",
        ) from None
